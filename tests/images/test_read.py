"""The reader as a whole: one array for one image, names, threads, real images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.config import EncodeParams
from pipeline.images import has_image_suffix, is_junk, read_image
from pipeline.images.formats import SUFFIXES
from pipeline.models import ModelSpec, load_clip
from tests.encode.conftest import encode_images
from tests.images.makers import LPS, dicom, grey, lut, save_dicom, save_nifti, turned


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


def test_the_reader_is_thread_safe(tmp_path):
    for k in range(4):
        Image.fromarray(grey(seed=k)).save(tmp_path / f"{k}.jpg")
        save_dicom(dicom(grey(seed=k).astype(np.uint16) * 9), tmp_path / f"{k}.dcm")
        volume = np.stack([grey(seed=k).T] * 2, axis=2).astype(np.int16) * 7
        save_nifti(volume, tmp_path / f"{k}.nii.gz")
        tifffile.imwrite(tmp_path / f"{k}.tif", grey(seed=k).astype(np.float32))
    paths = sorted(tmp_path.iterdir()) * 4
    alone = [read_image(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: read_image(path).tobytes(), paths)) == alone


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


@pytest.mark.promise("The same image in another format, bit depth or byte order is the same array.")
def test_one_image_in_twelve_kinds_of_file_has_one_feature(tmp_path):
    picture = grey(96, 128)
    deep = picture.astype(np.uint16) * 15 + 20
    window = {"WindowCenter": "1932.5", "WindowWidth": "3826"}
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "b.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "c.webp", quality=95)
    Image.fromarray(picture).convert("P").save(tmp_path / "d.bmp")
    (tmp_path / "e.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(tmp_path / "f.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(tmp_path / "g.tif", 255 - picture, photometric="miniswhite")
    save_dicom(dicom(deep, bits=12), tmp_path / "h.dcm")
    save_dicom(dicom(deep, bits=12, **window), tmp_path / "i.dcm")
    save_dicom(dicom(4095 - deep, bits=12, model="MONOCHROME1"), tmp_path / "j.dcm")
    save_nifti(deep.T.astype(np.int16), tmp_path / "k.nii.gz", LPS)
    Image.fromarray(np.rot90(picture)).save(tmp_path / "l.png", exif=turned(6))
    arrays = [read_image(path) for path in sorted(tmp_path.iterdir())]
    first = arrays[0]
    arrays += [np.ascontiguousarray(a) for a in (first[:, ::-1], first[::-1], 255 - first)]
    clip = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))
    masks = [np.ones(array.shape[:2], bool) for array in arrays]
    found = encode_images(arrays, masks, EncodeParams(), clip, views=("whole",))[:, 0]
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosine = found @ found[0]
    assert len(cosine) == 15 and 0.98 < cosine[:12].min() > cosine[12:].max()
