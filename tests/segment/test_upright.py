"""Size in the manifest, array, mask, overlay, box and click live in one upright frame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline import open_masks
from pipeline.engine.options import RunOptions
from pipeline.images import read_image
from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest, write_manifest
from pipeline.report.data import load_dataset
from pipeline.report.pictures import Album
from pipeline.segment.segment import segment_dataset
from tests.project import Project
from tests.segment.small_sam2 import scene

# EXIF orientation -> what turns the upright picture into the stored one.
TURNS = {3: lambda a: a[::-1, ::-1], 6: np.rot90, 8: lambda a: np.rot90(a, -1)}


@pytest.fixture
def project(tmp_path) -> Project:
    """One picture four times: as it is, and stored turned with the EXIF that says so."""
    made = Project(tmp_path / "project")
    image, _ = scene(1, 48, 80)
    folder = tmp_path / "scans"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    Image.fromarray(image).save(folder / "cat" / "1.png")
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[274] = orientation
        turned = Image.fromarray(np.ascontiguousarray(turn(image)))
        turned.save(folder / "dog" / f"{orientation}.png", exif=exif)
    add_dataset("turned", folder, paths=made.paths)
    return made


@pytest.mark.promise(
    "All eight EXIF orientations are applied: manifest, array, mask, overlay, box and click share "
    "one upright frame."
)
@pytest.mark.parametrize(
    ("prompt", "column", "value"),
    [("box", "box", "20,8,60,40"), ("points", "points", "41,22,1;3,3,0"), ("center-box", "", "")],
)
def test_boxes_clicks_and_masks_are_of_the_upright_picture(project, sam2, prompt, column, value):
    manifest = project.paths.manifest("turned")
    frame = read_manifest(manifest)
    assert set(zip(frame["height"], frame["width"], strict=True)) == {(48, 80)}
    if column:
        frame[column] = value
        write_manifest(frame, manifest)
    params = project.params(segment__prompt=prompt)
    segment_dataset("turned", params, project.paths, RunOptions(workers=1), predictor=sam2)
    masks = open_masks(project.paths.masks("turned"))
    plain = masks["cat/1.png"]
    assert 0 < plain.sum() < plain.size
    for image_id in masks:
        np.testing.assert_array_equal(masks[image_id], plain)
        image = read_image(project.paths.data("turned") / image_id)
        assert masks[image_id].shape == image.shape[:2] == (48, 80)
    album = Album(load_dataset("turned", project.params(), project.paths))
    pictures = {album.picture(image_id).uri for image_id in masks}
    assert len(pictures) == 1 and pictures.pop().startswith("data:image")
    assert album.picture("cat/1.png").uri != album.picture("cat/1.png", outlines=False).uri
