"""`pipeline data preview`: a contact sheet of what the models see, and warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import preview
from pipeline.paths import Paths
from pipeline.preview import LINE, MARGIN, SIZE, choose_rows, image_warnings
from tests.images.makers import NAME, PATIENT, dicom, grey, rgb, save_dicom
from tests.project import REPO, in_process


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())
    return Paths(tmp_path)


def listed(paths: Paths, names: list[str], **more: object) -> None:
    rows = {"image_id": names, "path": names, "frame": 0, "label": "a", "split": "", "width": 56}
    rows |= {"height": 40, "mask_path": "", "mask_area": "", "synthetic": "0", "sha256": "0" * 64}
    pd.DataFrame(rows | more).to_csv(paths.manifest("set"), index=False)


def edges(paths: Paths, colour: tuple[int, int, int]) -> np.ndarray:
    """Draw the only image; the top, left, bottom and right of a colour, from 0 to 1."""
    preview.preview_dataset("set", paths, paths.root / "x.png")
    with Image.open(paths.root / "x.png") as sheet:
        assert not sheet.info and sheet.height == 2 * MARGIN + SIZE + 3 * LINE
        tile = np.asarray(sheet)[MARGIN : MARGIN + SIZE, MARGIN : MARGIN + SIZE]
    drawn = np.argwhere((tile == colour).all(axis=-1))
    return np.array([*drawn.min(axis=0), *(drawn.max(axis=0) + 1)]) / SIZE


@pytest.mark.parametrize(
    ("pixels", "warning"),
    [
        (np.full((40, 56), 99, np.uint8), "nearly blank"),
        (grey() // 16, "nearly black"),
        (240 + grey() // 17, "nearly white"),
        (grey(8, 8), "tiny (8 x 8)"),
        (grey(40, 400), "very long (400 x 40)"),
        (grey(), ""),
    ],
)
def test_unusual_images_get_a_warning(pixels, warning):
    assert "; ".join(image_warnings(rgb(pixels))) == warning


@pytest.mark.promise(
    "The preview outlines a mask where its image has it, whatever the orientation."
)
def test_a_mask_is_outlined_in_the_geometry_of_its_image(paths):
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 5:25] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(paths.data("set") / "i.png", exif=exif)
    Image.fromarray(mask).save(paths.data("set") / "m.png", exif=exif)
    listed(paths, ["i.png"], width=40, height=56, mask_path="m.png")
    # 40 x 56 upright, padded by 8 on the left: the region is rows 5..24, columns 18..37 of 56
    assert np.abs(edges(paths, preview.OUTLINE) - np.array([5, 18, 25, 38]) / 56).max() < 1.5 / SIZE


@pytest.mark.promise("The preview draws the box of an image, as it is read from a table.")
def test_a_box_is_drawn_where_its_image_has_it(paths):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(paths.data("set") / "i.png")
    listed(paths, ["i.png"], width=40, box="5,10,25,30")
    assert np.abs(edges(paths, preview.BOX) - np.array([10, 5, 30, 25]) / 40).max() < 1.5 / SIZE


def test_rows_are_balanced_over_classes_whatever_their_order():
    names = [f"{k}.png" for k in range(93)]
    table = pd.DataFrame({"image_id": names, "label": ["many"] * 90 + ["few"] * 3, "split": ""})
    chosen = choose_rows(table, 10)
    assert chosen["label"].value_counts().to_dict() == {"many": 7, "few": 3}
    assert chosen.equals(choose_rows(table[::-1], 10))
    assert len(choose_rows(table, 1000)) == 93


@pytest.mark.promise("No name, id or date of a DICOM header reaches a file, a message or a log.")
def test_the_command_names_what_is_wrong_and_shows_nothing_of_a_dicom_header(paths):
    folder = paths.data("set")
    for name in ("ok.png", "mask.png", "size.png"):
        Image.fromarray(grey()).save(folder / name)
    Image.fromarray(grey(20, 20)).save(folder / "small.png")
    save_dicom(dicom(grey()), folder / "x.dcm")
    (folder / "cut.png").write_bytes((folder / "ok.png").read_bytes()[:400])
    names = ["ok.png", "x.dcm", "cut.png", "mask.png", "size.png"]
    masks = ["", "", "", "small.png", ""]
    listed(paths, names, mask_path=masks, width=[56, 56, 56, 56, 40])
    code, said = in_process(paths.root, "data", "preview", "--dataset", "set", "--out", "s.png")
    assert code == 0, said
    for name in names:
        assert (f"warning: {name}: " in said) == (name in ("cut.png", "mask.png", "size.png"))
    for secret in (NAME, "Doe", PATIENT):
        assert secret.encode() not in (paths.root / "s.png").read_bytes() + said.encode()
