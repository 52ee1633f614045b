"""Images through `data add`: frames are rows, at the size that is read; patients are grouped."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.images import patient_code, read_image
from tests.images.makers import colour, dicom, encode_png, grey, save_dicom, save_nifti, turned
from tests.project import REPO, in_process


@pytest.mark.promise("Pages, frames and slices are rows with a frame index.")
def test_frames_pages_and_slices_are_rows_at_the_size_that_is_read(tmp_path: Path):
    (tmp_path / "params.yaml").write_text((REPO / "params.yaml").read_text())
    folder = tmp_path / "scans" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "scans" / "b").mkdir()
    (tmp_path / "scans" / "b" / "0.png").write_bytes(encode_png(grey(seed=5)))
    tifffile.imwrite(folder / "pages.tif", np.stack([grey(), grey(seed=1)]), photometric=1)
    frames = np.stack([grey(seed=s).astype(np.uint16) * 9 for s in range(3)])
    save_dicom(dicom(frames, frames=3), folder / "frames.dcm")
    save_dicom(dicom(grey(seed=30)), tmp_path / "scans" / "b" / "named.png")  # content decides
    volume = np.stack([grey(14, 11, seed=s).T.astype(np.int16) * 9 for s in range(4)], axis=2)
    save_nifti(volume, folder / "slices.nii.gz")
    Image.fromarray(colour()).save(folder / "turned.jpg", exif=turned(6))
    code, said = in_process(tmp_path, "data", "add", "scans", "--from", "scans")
    assert code == 0, said
    with open(tmp_path / "data_manifests" / "scans.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        array = read_image(tmp_path / "scans" / row["path"], int(row["frame"]))
        assert (int(row["height"]), int(row["width"])) == array.shape[:2]
    counts = {"a/pages.tif": 2, "a/frames.dcm": 3, "a/slices.nii.gz": 4, "a/turned.jpg": 1}
    assert Counter(r["path"] for r in rows) == counts | {"b/0.png": 1, "b/named.png": 1}
    assert len({row["image_id"] for row in rows}) == len(rows)
    codes = {row["path"]: row["patient_id"] for row in rows}
    assert codes["a/frames.dcm"] == codes["b/named.png"] == patient_code(folder / "frames.dcm")
    assert codes["a/frames.dcm"] != "" == codes["a/turned.jpg"]
