"""The reader as a whole: one array for one image, names, threads, real images."""

from __future__ import annotations

from itertools import combinations

import imagecodecs
import numpy as np
import pytest

from pipeline.images import has_image_suffix, is_junk, read_image
from pipeline.images.formats import SUFFIXES
from tests.images.makers import dicom, grey, lut, save_dicom


@pytest.mark.promise("Different images are never the same array.")
def test_the_same_samples_displayed_differently_are_different_arrays(tmp_path):
    deep = grey().astype(np.uint16) * 14
    window = {"WindowCenter": "1700", "WindowWidth": "3000"}
    for name, tags in {
        "plain": {},
        "window": window,
        "other": window | {"WindowWidth": "1500"},
        "inverse": {"model": "MONOCHROME1"},
        "sigmoid": {**window, "VOILUTFunction": "SIGMOID"},
        "voi": {"VOILUTSequence": [lut(np.sqrt(np.arange(4096) / 4095) * 65535, 0)]},
    }.items():
        save_dicom(dicom(deep, bits=12, **tags), tmp_path / f"{name}.dcm")
    frames = np.stack([deep, deep[::-1]])
    twice = save_dicom(dicom(frames, bits=12, frames=2, **window), tmp_path / "frames.dcm")
    for alpha in (65535, 65535 // 2, 257):
        values = np.dstack([grey().astype(np.uint16) * 257, np.full_like(deep, alpha)])
        (tmp_path / f"{alpha}.png").write_bytes(imagecodecs.png_encode(values))
    shown = {p.name: read_image(p) for p in sorted(tmp_path.iterdir())}
    shown["second frame"] = read_image(twice, 1)
    # the first frame is the image of the single file with that window, and of no other
    np.testing.assert_array_equal(shown.pop("frames.dcm"), shown["window.dcm"])
    same = [pair for pair in combinations(shown, 2) if (shown[pair[0]] == shown[pair[1]]).all()]
    assert len(shown) == 10 and not same


def test_junk_and_image_suffixes_are_known_by_name():
    for name in (
        "._x.png", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX", "~$x.png",
        ".ipynb_checkpoints", "__MACOSX/train/a/._x.png", "train\\.ipynb_checkpoints\\x.png",
    ):  # fmt: skip
        assert is_junk(name), name
    for name in ("x.png", "no tumor/x.1.png", "a/./b.png", "../x.png", "thumbs.png", "[0-9]*.png"):
        assert not is_junk(name), name
    assert all(has_image_suffix(f"x{s.upper()}") for s in SUFFIXES)
    assert has_image_suffix("a.b.nii.gz") and not has_image_suffix("x.tar.gz")
    assert not has_image_suffix("notes.txt") and not has_image_suffix("IM0001")
