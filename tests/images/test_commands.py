"""Images through the commands: faults are named, frames are rows, no identity is written."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.images import encode_png, patient_code, read_image
from tests.images.makers import BIRTH, NAME, PATIENT, colour, dicom, grey, save_dicom, save_nifti
from tests.images.test_faults import NOT_IMAGES
from tests.project import REPO, pipeline


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text((REPO / "params.yaml").read_text())
    for label in ("a", "b"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for k in range(2):
            file = tmp_path / "scans" / label / f"{k}.png"
            file.write_bytes(encode_png(grey(seed=k + 5 * (label == "b"))))
    return root


def manifest(root: Path) -> list[dict[str, str]]:
    with open(root / "data_manifests" / "scans.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.promise("Bad files are named and the good ones are added.")
def test_adding_names_every_bad_file_takes_the_good_ones_and_exits_3(project):
    folder = project.parent / "scans" / "a"
    for name, (content, _) in NOT_IMAGES.items():
        (folder / name).write_bytes(content)
    os.symlink(folder / "nowhere.png", folder / "dangling.png")
    (folder / "one.png").write_bytes(encode_png(np.full((1, 1), 9, np.uint8)))
    (folder / "really_a.dcm").write_bytes(encode_png(grey(seed=9)))
    code, said = pipeline(project, "data", "add", "scans", "--from", "../scans")
    assert code == 3, said
    assert "Traceback" not in said
    skipped = {"short.dcm"}  # an object without pixels is counted, not a failure
    for name in {*NOT_IMAGES, "dangling.png"} - skipped:
        assert name in said, name
    names = {row["path"] for row in manifest(project)}
    assert names == {"a/0.png", "a/1.png", "b/0.png", "b/1.png", "a/one.png", "a/really_a.dcm"}


@pytest.mark.promise("Pages, frames and slices are rows with a frame index.")
def test_frames_pages_and_slices_are_rows_at_the_size_that_is_read(project):
    folder = project.parent / "scans" / "a"
    tifffile.imwrite(folder / "pages.tif", np.stack([grey(), grey(seed=1)]), photometric=1)
    frames = np.stack([grey(seed=s).astype(np.uint16) * 9 for s in range(3)])
    save_dicom(dicom(frames, frames=3), folder / "frames.dcm")
    volume = np.stack([grey(14, 11, seed=s).T.astype(np.int16) * 9 for s in range(4)], axis=2)
    save_nifti(volume, folder / "slices.nii.gz")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(colour()).save(folder / "turned.jpg", exif=exif)
    code, said = pipeline(project, "data", "add", "scans", "--from", "../scans")
    assert code == 0, said
    rows = manifest(project)
    counts = {name: 0 for name in ("pages.tif", "frames.dcm", "slices.nii.gz", "turned.jpg")}
    for row in rows:
        counts[Path(row["path"]).name] = counts.get(Path(row["path"]).name, 0) + 1
        array = read_image(project.parent / "scans" / row["path"], int(row["frame"]))
        assert (int(row["height"]), int(row["width"])) == array.shape[:2]
    assert [counts[n] for n in ("pages.tif", "frames.dcm", "slices.nii.gz")] == [2, 3, 4]
    assert len({row["image_id"] for row in rows}) == len(rows)


@pytest.mark.promise("No name, id or date of a DICOM header reaches a file, a message or a log.")
def test_no_header_identity_reaches_any_file_or_message_and_patients_are_grouped(project):
    folder = project.parent / "scans"
    for k, label in enumerate("aab"):
        save_dicom(dicom(grey(seed=20 + k)), folder / label / f"d{k}.dcm")
    save_dicom(dicom(grey(seed=30)), folder / "b" / "named.png")  # content decides, not the name
    whole = (folder / "a" / "d0.dcm").read_bytes()
    (folder / "b" / "cut.dcm").write_bytes(whole[:-500])
    code, said = pipeline(project, "data", "add", "scans", "--from", "../scans")
    assert code == 3 and "cut.dcm" in said
    told = [said]
    for command in (
        ["data", "preview", "--dataset", "scans", "--out", "sheet.png"],
        ["data", "check", "--dataset", "scans"],
    ):
        told.append(pipeline(project, *command)[1])
    secrets = [s.encode() for s in (NAME, "Doe", "Jane", PATIENT, BIRTH)]
    written = [p for p in project.rglob("*") if p.is_file() and "data" not in p.parts]
    assert any(p.name == "sheet.png" for p in written)
    for content in [text.encode() for text in told] + [p.read_bytes() for p in written]:
        assert not any(secret in content for secret in secrets)
    assert not any(s.decode() in p.name for p in project.rglob("*") for s in secrets)
    codes = {row["path"]: row["patient_id"] for row in manifest(project)}
    assert codes["a/d0.dcm"] == codes["a/d1.dcm"] == patient_code(folder / "a" / "d0.dcm") != ""
    assert codes["b/named.png"] == codes["b/d2.dcm"] == codes["a/d0.dcm"] and codes["a/0.png"] == ""
