"""Ground-truth masks: one threshold for all frames of a file, whatever a frame holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from pipeline.errors import ImageError
from pipeline.images import read_image, read_mask
from tests.images.makers import dicom, grey, save_dicom, save_nifti

ONE = "A ground-truth mask has one threshold for all frames of its file, whatever a frame holds."
LPS = np.diag([-1.0, -1, 1, 1])


def disc(radius: float, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2


def write(frames: np.ndarray, path: Path) -> Path:
    """(n, h, w) -> a file of n frames, by the suffix."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, frames, photometric="minisblack")
    elif path.suffix == ".nii":
        save_nifti(np.moveaxis(frames, (0, 1, 2), (2, 1, 0)).copy(), path, LPS)
    else:
        save_dicom(dicom(frames, frames=len(frames)), path)
    return path


def areas(path: Path, count: int) -> list[int]:
    return [int(read_mask(path, k).sum()) for k in range(count)]


SUFFIXES = ["tif", "nii", "dcm"]


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s != "dcm"])
@pytest.mark.parametrize("scale", [0.02, 0.4, 1.0])
def test_probabilities_have_the_threshold_one_half(tmp_path, suffix, scale):
    soft = gaussian_filter(disc(15).astype(np.float32), 2)
    frames = np.stack([soft, soft * np.float32(scale), soft * np.float32(0.01)])
    path = write(frames, tmp_path / f"x.{suffix}")
    for k in range(3):
        np.testing.assert_array_equal(read_mask(path, k), frames[k] > 0.5)


@pytest.mark.promise(ONE)
def test_a_faint_probability_map_has_no_region(tmp_path):
    faint = np.random.default_rng(0).random((64, 64)).astype(np.float32) * 0.02
    tifffile.imwrite(tmp_path / "x.tif", faint)
    assert not read_mask(tmp_path / "x.tif").any()


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("third", [0, 180, 255])
def test_labels_count_on_every_frame_whatever_other_labels_it_holds(tmp_path, suffix, third):
    frames = np.zeros((3, 48, 64), np.uint8)
    frames[:, :20], frames[:, 30:] = 60, 120
    frames[1, 22:28] = third
    frames[2] = 0
    frames[2, 24, 3] = 60  # a single sample of the lower label
    path = write(frames, tmp_path / f"x.{suffix}")
    for k in range(3):
        np.testing.assert_array_equal(read_mask(path, k), frames[k] > 0, err_msg=str(k))


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 4095), (np.int16, 3000)])
def test_smooth_edges_have_half_of_the_range_as_threshold(tmp_path, suffix, dtype, top):
    bright = np.rint(gaussian_filter(disc(15) * float(top), 2)).astype(dtype)
    # the last two are the flat frames above and below a smoothed region: nothing is inside
    frames = np.stack([bright, bright // 4, bright // 64])
    path = write(frames, tmp_path / f"x.{suffix}")
    inside = int((bright > top // 2).sum())
    assert abs(inside - disc(15).sum()) < 20
    assert areas(path, 3) == [inside, 0, 0]


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("many", [3, 60])
def test_every_label_counts_for_any_dtype_and_number_of_labels(tmp_path, dtype, many):
    tiles = np.kron(np.arange(60).reshape(6, 10) % many, np.ones((8, 8), int))
    for k, factor in enumerate((1, 4, 34)):  # up to 59, 236 and 2,006
        if factor == 34 and dtype == np.uint8:
            continue
        path = write((tiles * factor).astype(dtype)[None], tmp_path / f"{k}.nii")
        np.testing.assert_array_equal(read_mask(path), tiles > 0, err_msg=str(factor))


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("levels", [(0, 1), (1, 2), (0, 255), (40, 200), (-1, 1), (0, 3.5)])
@pytest.mark.parametrize("suffix", ["tif", "nii"])
def test_the_higher_of_two_levels_is_the_region_on_every_frame(tmp_path, levels, suffix):
    mask = np.stack([disc(15), disc(0), ~disc(0)])
    frames = np.where(mask, levels[1], levels[0]).astype(np.float32)
    if levels[1] != 3.5:
        frames = frames.astype(np.int16)
    path = write(frames, tmp_path / f"x.{suffix}")
    for k in range(3):
        np.testing.assert_array_equal(read_mask(path, k), mask[k], err_msg=str(k))


@pytest.mark.promise(ONE)
def test_a_smooth_mask_is_the_same_if_white_is_zero(tmp_path):
    smooth = np.rint(gaussian_filter(disc(15) * 4095.0, 2)).astype(np.uint16)
    frames = np.stack([np.full_like(smooth, 4095), smooth, smooth // 4, smooth * 0])
    tifffile.imwrite(tmp_path / "a.tif", frames, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", 4095 - frames, photometric="miniswhite")
    for k in range(4):
        mask = read_mask(tmp_path / "b.tif", k)
        np.testing.assert_array_equal(mask, frames[k] > 2047.5)
        np.testing.assert_array_equal(mask, read_mask(tmp_path / "a.tif", k))


@pytest.mark.promise(ONE)
def test_coding_noise_saved_as_png_is_not_in_the_region(tmp_path):
    Image.fromarray(disc(15).astype(np.uint8) * 255).save(tmp_path / "x.jpg", quality=60)
    noisy = read_image(tmp_path / "x.jpg")
    assert len(np.unique(noisy)) > 16
    Image.fromarray(noisy).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), disc(15))


@pytest.mark.promise(ONE)
def test_small_overshoot_of_resampled_probabilities_is_cut_at_a_half(tmp_path):
    soft = gaussian_filter(disc(15).astype(np.float32), 1) * 1.3 - 0.15
    tifffile.imwrite(tmp_path / "x.tif", soft)
    np.testing.assert_array_equal(read_mask(tmp_path / "x.tif"), soft > 0.5)


AMBIGUOUS = {
    "resampled labels": gaussian_filter(disc(15) * 3.0, 1).astype(np.float32),
    "scores": (disc(15) * 9 - 4.5 + grey(48, 64) / 300).astype(np.float32),
    "per cent": np.rint(gaussian_filter(disc(15) * 100.0, 3)).astype(np.uint8),
    "a picture": grey(48, 64) // 3,
}


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("values", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_ambiguous_masks_are_refused_with_the_remedy(tmp_path, values):
    tifffile.imwrite(tmp_path / "x.tif", np.stack([values, values // 2]), photometric="minisblack")
    for page in range(2):
        with pytest.raises(ImageError, match="neither labels") as error:
            read_mask(tmp_path / "x.tif", page)
        assert error.value.path == tmp_path / "x.tif"


def test_a_damaged_frame_does_not_affect_the_others(tmp_path):
    frames = np.stack([disc(r).astype(np.uint8) * 255 for r in (15, 10, 5)])
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as tiff:
        for frame in frames:
            tiff.write(frame, compression="zlib", contiguous=False)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_mask(path, 1)
    for k in (0, 2):
        np.testing.assert_array_equal(read_mask(path, k), frames[k] > 0)
