"""`pipeline data preview`: a contact sheet of what the models see, and warnings."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.preview import choose_rows, contact_sheet, image_warnings, is_coloured
from tests.images.makers import NAME, PATIENT, colour, dicom, grey, rgb, save_dicom


def row(name: str, label: str = "a", split: str = "", width: int = 56, height: int = 40, **more):
    return {
        "image_id": name, "path": name, "frame": 0, "label": label, "split": split,
        "width": width, "height": height, "mask_path": "", "sha256": "0" * 64, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data" / "set"
    data.mkdir(parents=True)
    for k in range(6):
        Image.fromarray(grey(seed=k)).save(data / f"{k}.png")
    return data


def test_a_sheet_of_ordinary_images_has_no_warning_and_no_metadata(folder, tmp_path):
    out = tmp_path / "sheet.png"
    assert contact_sheet([row(f"{k}.png") for k in range(6)], out, data=folder, size=64) == []
    with Image.open(out) as sheet:
        assert sheet.mode == "RGB" and not sheet.info
        tile = np.asarray(sheet)[25:89, 6:70]
    assert tile.std() > 20


@pytest.mark.parametrize(
    ("pixels", "warning"),
    [
        (np.full((40, 56), 9, np.uint8), "blank"),
        (grey() // 16, "nearly black"),
        (240 + grey() // 17, "nearly white"),
        (grey(8, 8), "tiny (8 x 8)"),
        (grey(40, 400), "very long (400 x 40)"),
        (grey(), ""),
    ],
)
def test_unusual_images_get_a_warning(pixels, warning):
    assert "; ".join(image_warnings(rgb(pixels))) == warning
    assert not is_coloured(rgb(pixels)) and is_coloured(colour())


def test_unreadable_images_and_masks_and_wrong_sizes_are_named(folder, tmp_path):
    Image.fromarray(colour()).save(folder / "colour.png")
    Image.fromarray(grey(20, 20)).save(folder / "mask.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:400])
    rows = [row(f"{k}.png") for k in (0, 3, 4, 5)]
    rows += [row("cut.png"), row("gone.png"), row("colour.png")]
    rows += [row("1.png", mask_path="mask.png"), row("2.png", width=40, height=56)]
    warnings = contact_sheet(rows, tmp_path / "x.png", data=folder, size=32)
    assert [w.split(":")[0] for w in warnings[:-1]] == ["cut.png", "gone.png", "1.png", "2.png"]
    assert warnings[-1].endswith("colour.png")


@pytest.mark.promise(
    "The preview outlines a mask where its image has it, whatever the orientation."
)
def test_a_mask_is_outlined_in_the_geometry_of_its_image(folder, tmp_path):
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 5:25] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(folder / "image.png", exif=exif)
    Image.fromarray(mask).save(folder / "mask.png", exif=exif)
    rows = [row("image.png", width=40, height=56, mask_path="mask.png")]
    contact_sheet(rows, tmp_path / "x.png", data=folder, size=56, columns=1)
    with Image.open(tmp_path / "x.png") as sheet:
        tile = np.asarray(sheet)[25:81, 6:62]
    yellow = np.argwhere((tile[..., 0] > 200) & (tile[..., 2] < 60))
    # 40 x 56 upright, padded by 8 on the left: the region is rows 5..24, columns 10..29
    assert yellow.min(axis=0).tolist() == [5, 18] and yellow.max(axis=0).tolist() == [24, 37]


def test_rows_are_balanced_over_classes_whatever_their_order():
    rows = [row(f"{k}.png", "many", "train") for k in range(90)]
    rows += [row(f"t{k}.png", "few", "test") for k in range(3)]
    chosen = choose_rows(rows, 10)
    assert [r["label"] for r in chosen].count("few") == 3 and len(chosen) == 10
    assert chosen == choose_rows(list(reversed(rows)), 10)
    assert len(choose_rows(rows, 1000)) == 93


@pytest.mark.promise("No name, id or date of a DICOM header reaches a file, a message or a log.")
def test_the_command_writes_the_sheet_and_nothing_of_the_dicom_header(repo, folder, tmp_path):
    save_dicom(dicom(grey()), folder / "x.dcm")
    (folder / "bad.png").write_bytes(b"")
    rows = [row(name, mask_area="", synthetic="0") for name in ("0.png", "x.dcm", "bad.png")]
    (tmp_path / "data_manifests").mkdir()
    with open(tmp_path / "data_manifests" / "set.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "params.yaml").write_text((repo / "params.yaml").read_text())
    code = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "preview", "--dataset", "set"]
    done = subprocess.run(
        [*command, "--out", "sheet.png"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(repo), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bad.png" in done.stderr
    written = (tmp_path / "sheet.png").read_bytes() + done.stderr.encode() + done.stdout.encode()
    for secret in (NAME, "Doe", PATIENT):
        assert secret.encode() not in written
