"""Manifest, array, mask, box and click live in one upright frame, and masks go back to voxels."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pipeline import open_masks
from pipeline.engine.options import RunOptions
from pipeline.images import read_image
from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest, write_manifest
from pipeline.segment.segment import segment_dataset
from tests.images.makers import save_nifti
from tests.project import Project
from tests.segment.small_sam2 import scene

# EXIF orientation -> what turns the upright picture into the stored one.
TURNS = {3: lambda a: a[::-1, ::-1], 6: np.rot90, 8: lambda a: np.rot90(a, -1)}


def segment(project: Project, dataset: str, sam2, prompt: str) -> None:
    params = project.params(segment__prompt=prompt)
    segment_dataset(dataset, params, project.paths, RunOptions(workers=1), predictor=sam2)


@pytest.mark.promise(
    "All eight EXIF orientations are applied: manifest, array, mask, overlay, box and click share "
    "one upright frame."
)
@pytest.mark.parametrize(("prompt", "value"), [("box", "20,8,60,40"), ("points", "41,22,1;3,3,0")])
def test_boxes_clicks_and_masks_are_of_the_upright_picture(tmp_path, sam2, prompt, value):
    project, scans = Project(tmp_path / "project"), tmp_path / "scans"
    image, _ = scene(1, 48, 80)
    for label in ("cat", "dog"):
        (scans / label).mkdir(parents=True)
    Image.fromarray(image).save(scans / "cat/1.png")
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[274] = orientation
        turned = Image.fromarray(np.ascontiguousarray(turn(image)))
        turned.save(scans / f"dog/{orientation}.png", exif=exif)
    add_dataset("turned", scans, paths=project.paths)
    manifest = project.paths.manifest("turned")
    frame = read_manifest(manifest)
    assert set(zip(frame["height"], frame["width"], strict=True)) == {(48, 80)}
    frame[prompt] = value
    write_manifest(frame, manifest)
    segment(project, "turned", sam2, prompt)
    masks = open_masks(project.paths.masks("turned"))
    assert 0 < masks["cat/1.png"].sum() < 48 * 80 and len(masks) == 4
    for image_id in masks:
        np.testing.assert_array_equal(masks[image_id], masks["cat/1.png"])
        assert read_image(project.paths.data("turned") / image_id).shape[:2] == (48, 80)


@pytest.mark.promise(
    "NIfTI of any axis order and scaling shows the same slices, and masks map back to voxels "
    "(`to_voxels`, shown in the README)."
)
def test_the_readmes_lines_turn_a_stored_mask_back_to_voxels(repo, tmp_path, sam2, monkeypatch):
    slices = [scene(i, 48, 64)[0][..., 0] for i in range(3)]
    # The file's axes are slices (downward), columns (rightward) and rows (frontward).
    affine = np.array([[0, -1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], float)
    path = tmp_path / "scans/train/benign/scan.nii.gz"
    path.parent.mkdir(parents=True)
    save_nifti(np.stack([s.T for s in slices]), path, affine)
    monkeypatch.chdir(tmp_path)
    project = Project(Path())
    add_dataset("breast", tmp_path / "scans", paths=project.paths)
    segment(project, "breast", sam2, "center-box")
    blocks = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    lines = next(block for block in blocks if "to_voxels" in block)
    ours = {"brain": "breast", "glioma": "benign", "#12": "#2", "frame=12": "frame=2"}
    for word, own in ours.items():
        assert word in lines
        lines = lines.replace(word, own)
    names: dict = {}
    exec("from pipeline import open_masks\n" + lines, names)
    mask, voxels = names["mask"], names["voxels"]
    stored = np.asarray(nib.load(path).dataobj)
    assert voxels.dtype == bool and voxels.shape == stored.shape
    assert 0 < mask.sum() == voxels.sum() == voxels[0].sum()  # slice 2 is the highest, index 0
    shown = read_image(path, 2)[..., 0]
    np.testing.assert_array_equal(np.sort(stored[voxels]), np.sort(shown[mask]))
