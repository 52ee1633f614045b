"""The reader as a whole: one array for one image, masks, names, threads, real images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset

from pipeline.config import EncodeParams
from pipeline.errors import ImageError
from pipeline.images import (
    SUFFIXES,
    has_image_suffix,
    is_junk,
    probe,
    read_image,
    read_mask,
)
from pipeline.models import ModelSpec, load_clip
from tests.encode.conftest import encode_images
from tests.images.makers import colour, dicom, grey, save_dicom, save_nifti


def region() -> np.ndarray:
    mask = np.zeros((40, 56), bool)
    mask[5:20, 10:50] = True
    mask[15:20, 10:14] = False
    return mask


@pytest.mark.promise(
    "A ground-truth mask has one threshold for all frames of its file, whatever a frame holds."
)
def test_a_region_is_the_same_however_the_mask_is_stored(tmp_path):
    mask = region()
    stored = {
        "bits.png": mask,
        "ones.png": mask.astype(np.uint8),
        "labels.png": mask.astype(np.uint8) * 3,
        "full.png": mask.astype(np.uint8) * 255,
        "deep.png": mask.astype(np.uint16) * 65535,
        "deep_ones.png": mask.astype(np.uint16),
        "full.jpg": mask.astype(np.uint8) * 255,
        "colour.png": mask[..., None] * np.array([255, 0, 0], np.uint8),
        "lossy.webp": mask.astype(np.uint8) * 255,
    }
    for name, values in stored.items():
        Image.fromarray(values).save(tmp_path / name)
    palette = Image.fromarray(mask.astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 64, 0, 0])
    palette.save(tmp_path / "palette.png")
    tifffile.imwrite(tmp_path / "float.tif", mask.astype(np.float32))
    tifffile.imwrite(tmp_path / "white.tif", 255 - mask.astype(np.uint8) * 255, photometric=0)
    soft = np.where(mask, 0.9, 0.1).astype(np.float32)
    tifffile.imwrite(tmp_path / "soft.tif", soft)
    save_nifti(mask.T.astype(np.uint8), tmp_path / "x.nii.gz", np.diag([-1.0, -1, 1, 1]))
    save_dicom(dicom(mask.astype(np.uint8)), tmp_path / "x.dcm")
    save_dicom(dicom(mask.astype(np.uint16) * 4095, bits=12), tmp_path / "deep.dcm")
    inverse = 255 - mask.astype(np.uint8) * 255
    save_dicom(dicom(inverse, model="MONOCHROME1"), tmp_path / "m1.dcm")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 17
    Image.fromarray(grey() // 40).save(tmp_path / "noise.jpg")
    assert not read_mask(tmp_path / "noise.jpg").any()
    for name in names:
        got = read_mask(tmp_path / name)
        assert got.dtype == bool
        np.testing.assert_array_equal(got, mask, err_msg=name)


@pytest.mark.promise("All eight EXIF orientations are applied, to images, masks and sizes alike.")
def test_masks_are_turned_like_images_and_must_have_their_size(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(colour()).save(tmp_path / "x.jpg", exif=exif)
    full = region().astype(np.uint8) * 255
    Image.fromarray(full).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(full).save(tmp_path / "flat.png")
    shape = read_image(tmp_path / "x.jpg").shape[:2]
    mask = read_mask(tmp_path / "turned.png", shape=shape)
    np.testing.assert_array_equal(mask, np.rot90(region(), -1))
    with pytest.raises(ImageError, match="56 x 40"):
        read_mask(tmp_path / "flat.png", shape=shape)


def _alpha_png(alpha: int, path: Path) -> Path:
    deep = grey().astype(np.uint16) * 257
    path.write_bytes(imagecodecs.png_encode(np.dstack([deep, np.full_like(deep, alpha)])))
    return path


def _voi(table: np.ndarray) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), 0, 16])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


@pytest.mark.promise("Different images are never the same array.")
def test_the_same_samples_displayed_differently_are_different_arrays(tmp_path):
    deep = grey().astype(np.uint16) * 14
    window = {"WindowCenter": "1700", "WindowWidth": "3000"}
    other = {"WindowCenter": "1700", "WindowWidth": "1500"}
    table = np.sqrt(np.arange(4096) / 4095) * 65535
    for name, tags in {
        "plain": {},
        "window": window,
        "other": other,
        "inverse": {"model": "MONOCHROME1"},
        "sigmoid": {**window, "VOILUTFunction": "SIGMOID"},
        "voi": {"VOILUTSequence": [_voi(table)]},
    }.items():
        save_dicom(dicom(deep, bits=12, **tags), tmp_path / f"{name}.dcm")
    frames = np.stack([deep, deep[::-1]])
    twice = save_dicom(dicom(frames, bits=12, frames=2, **window), tmp_path / "frames.dcm")
    for alpha in (65535, 65535 // 2, 257):
        _alpha_png(alpha, tmp_path / f"{alpha}.png")
    shown = {p.name: read_image(p) for p in sorted(tmp_path.iterdir())}
    shown["second frame"] = read_image(twice, 1)
    # the first frame is the image of the single file with that window, and of no other
    np.testing.assert_array_equal(shown.pop("frames.dcm"), shown["window.dcm"])
    names = list(shown)
    same = [(a, b) for a, b in combinations(names, 2) if (shown[a] == shown[b]).all()]
    assert len(names) == 10 and not same


def test_the_reader_is_thread_safe(tmp_path):
    paths = []
    for k in range(6):
        Image.fromarray(grey(seed=k)).save(tmp_path / f"{k}.jpg")
        save_dicom(dicom(grey(seed=k).astype(np.uint16) * 9), tmp_path / f"{k}.dcm")
        volume = np.stack([grey(seed=k).T] * 2, axis=2).astype(np.int16) * 7
        save_nifti(volume, tmp_path / f"{k}.nii.gz")
        tifffile.imwrite(tmp_path / f"{k}.tif", grey(seed=k).astype(np.float32))
    paths = sorted(tmp_path.iterdir()) * 4
    alone = [read_image(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: read_image(path).tobytes(), paths)) == alone


def test_junk_of_systems_and_notebooks_is_known_by_name():
    for name in (
        "._x.png", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "__MACOSX", "~$x.png",
        ".ipynb_checkpoints", "__MACOSX/train/a/._x.png", "train\\.ipynb_checkpoints\\x.png",
    ):  # fmt: skip
        assert is_junk(name), name
    for name in ("x.png", "no tumor/x.1.png", "a/./b.png", "../x.png", "thumbs.png", "[0-9]*.png"):
        assert not is_junk(name), name


def test_suffixes_are_known_in_any_case():
    assert all(has_image_suffix(f"x{s.upper()}") for s in SUFFIXES)
    assert has_image_suffix("a.b.nii.gz") and not has_image_suffix("x.tar.gz")
    assert not has_image_suffix("notes.txt") and not has_image_suffix("IM0001")


@pytest.mark.promise("8-bit images are unchanged; deeper ones are scaled by robust percentiles.")
def test_real_images_are_read_as_pillow_shows_them(shared):
    folders = [p for p in sorted((shared / "data").rglob("*")) if p.is_dir()]
    files = [next((f for f in sorted(d.iterdir()) if f.is_file()), None) for d in folders]
    files = [f for f in files if f is not None]
    assert len(files) > 10
    for path in files:
        array = read_image(path)
        with Image.open(path) as image:
            np.testing.assert_array_equal(array, np.asarray(image.convert("RGB")))
        assert [(f.height, f.width) for f in probe(path)] == [array.shape[:2]]


LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def encode():
    clip = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))

    def run(images: list[np.ndarray]) -> np.ndarray:
        masks = [np.ones(image.shape[:2], bool) for image in images]
        found = encode_images(images, masks, EncodeParams(), clip, views=("whole",))[:, 0]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return run


def save_everywhere(picture: np.ndarray, folder) -> dict[str, np.ndarray]:
    """Write an 8-bit image in twelve ways; return what is read."""
    deep = picture.astype(np.uint16) * 15 + 20
    Image.fromarray(picture).save(folder / "a.png")
    Image.fromarray(picture).save(folder / "b.jpg", quality=95)
    Image.fromarray(picture).save(folder / "c.webp", quality=95)
    Image.fromarray(picture).convert("P").save(folder / "d.bmp")
    (folder / "e.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(folder / "f.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(folder / "g.tif", 255 - picture, photometric="miniswhite")
    save_dicom(dicom(deep, bits=12), folder / "h.dcm")
    window = {"WindowCenter": "1932.5", "WindowWidth": "3826"}
    save_dicom(dicom(deep, bits=12, **window), folder / "i.dcm")
    save_dicom(dicom(4095 - deep, bits=12, model="MONOCHROME1"), folder / "j.dcm")
    save_nifti(deep.T.astype(np.int16), folder / "k.nii.gz", LPS)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(picture)).save(folder / "l.png", exif=exif)
    return {path.name: read_image(path) for path in sorted(folder.iterdir())}


@pytest.mark.promise("The same image in another format, bit depth or byte order is the same array.")
def test_one_image_in_twelve_kinds_of_file_has_one_feature(tmp_path, encode):
    arrays = save_everywhere(grey(96, 128), tmp_path)
    assert len(arrays) == 12
    features = encode(list(arrays.values()))
    cosine = dict(zip(arrays, features @ features[0], strict=True))
    assert min(cosine.values()) > 0.98, cosine
    first = arrays["a.png"]
    others = [first[:, ::-1], first[::-1], 255 - first]
    apart = encode([first, *(np.ascontiguousarray(o) for o in others)])
    assert (apart[1:] @ apart[0]).max() < min(cosine.values())
