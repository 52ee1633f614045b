"""`pipeline data preview`: a sheet of what the models see, and warnings in words."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.preview.odd import image_warnings, is_coloured
from pipeline.preview.sheet import choose_rows, contact_sheet
from tests.images.makers import NAME, PATIENT, colour, dicom, grey, rgb, save_dicom

REPO = Path(__file__).resolve().parents[2]


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


def test_a_healthy_set_gives_a_sheet_without_warnings(folder, tmp_path):
    out = tmp_path / "sheet.png"
    assert contact_sheet([row(f"{k}.png") for k in range(6)], out, data=folder, size=64) == []
    with Image.open(out) as sheet:
        assert sheet.mode == "RGB" and not sheet.info
        tile = np.asarray(sheet)[25:89, 6:70]
    assert tile.std() > 20


def test_each_kind_of_trouble_is_named_with_its_image(folder, tmp_path):
    Image.fromarray(np.full((40, 56), 9, np.uint8)).save(folder / "blank.png")
    Image.fromarray(grey() // 16).save(folder / "dark.png")
    Image.fromarray(240 + grey() // 17).save(folder / "bright.png")
    Image.fromarray(grey(8, 8)).save(folder / "tiny.png")
    Image.fromarray(grey(40, 400)).save(folder / "long.png")
    Image.fromarray(colour()).save(folder / "colour.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:400])
    (folder / "page.png").write_bytes(b"<html>")
    Image.fromarray(grey(20, 20)).save(folder / "mask.png")
    rows = [row(f"{k}.png") for k in range(6)]
    rows += [row("blank.png"), row("dark.png"), row("bright.png"), row("cut.png")]
    rows += [row("tiny.png", width=8, height=8), row("long.png", width=400), row("page.png")]
    rows += [row("colour.png"), row("gone.png"), row("1.png", mask_path="mask.png")]
    rows += [row("2.png", width=40, height=56)]
    told = "\n".join(contact_sheet(rows, tmp_path / "x.png", data=folder, size=32))
    for words in (
        "blank.png: blank", "dark.png: nearly black", "bright.png: nearly white",
        "tiny.png: tiny (8 x 8)", "long.png: very long (400 x 40)", "cut.png: cannot be read",
        "page.png: cannot be read: is a web page", "gone.png: cannot be read: does not exist",
        "1.png: its mask cannot be used", "2.png: is 56 x 40, the manifest says otherwise",
        "images are coloured, the rest grey: colour.png",
    ):  # fmt: skip
        assert words in told, words


def test_the_ground_truth_is_outlined_in_the_same_frame_as_the_image(folder, tmp_path):
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
    # 40 x 56 upright, padded by 8 on the left; the region turns to rows 5..24, columns 10..29.
    assert yellow.min(axis=0).tolist() == [5, 18] and yellow.max(axis=0).tolist() == [24, 37]


def test_rows_are_drawn_evenly_and_always_the_same():
    rows = [row(f"{k}.png", "many", "train") for k in range(90)]
    rows += [row(f"t{k}.png", "few", "test") for k in range(3)]
    chosen = choose_rows(rows, 10)
    assert [r["label"] for r in chosen].count("few") == 3 and len(chosen) == 10
    assert chosen == choose_rows(list(reversed(rows)), 10)
    assert len(choose_rows(rows, 1000)) == 93


def test_judging_leaves_ordinary_pictures_alone():
    assert image_warnings(rgb(grey())) == []
    assert not is_coloured(rgb(grey())) and is_coloured(colour())


def test_the_command_writes_the_sheet_and_no_header_identity(folder, tmp_path):
    save_dicom(dicom(grey()), folder / "x.dcm")
    (folder / "bad.png").write_bytes(b"")
    names = ["0.png", "x.dcm", "bad.png"]
    rows = [row(name, mask_area="", synthetic="0") for name in names]
    (tmp_path / "data_manifests").mkdir()
    with open(tmp_path / "data_manifests" / "set.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())
    code = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "preview", "--dataset", "set"]
    done = subprocess.run(
        [*command, "--out", "sheet.png"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(REPO), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning: bad.png: cannot be read: is empty" in done.stderr
    written = (tmp_path / "sheet.png").read_bytes() + done.stderr.encode() + done.stdout.encode()
    for secret in (NAME, "Doe", PATIENT):
        assert secret.encode() not in written
