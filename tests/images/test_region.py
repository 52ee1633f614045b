"""Ground-truth masks: one threshold for all frames of a file, whatever a frame holds."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter

from pipeline.errors import ConfigError, ImageError
from pipeline.images import Ambiguous, read_image, read_mask
from pipeline.manifest import MaskFiles
from tests.images.makers import LPS, colour, dicom, grey, save_dicom, save_nifti, turned

ONE = "A ground-truth mask has one threshold for all frames of its file, whatever a frame holds."
SUFFIXES = ["tif", "nii", "dcm"]


def disc(radius: float, height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2


def check(frames: np.ndarray, path: Path, regions: np.ndarray) -> None:
    """Write (n, h, w) as a file of n frames, by the suffix, and compare the masks."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, frames, photometric="minisblack")
    elif path.suffix == ".nii":
        save_nifti(np.moveaxis(frames, (0, 1, 2), (2, 1, 0)).copy(), path, LPS)
    else:
        save_dicom(dicom(frames, frames=len(frames)), path)
    for k, region in enumerate(regions):
        np.testing.assert_array_equal(read_mask(path, k), region, err_msg=str(k))


@pytest.mark.promise(ONE)
def test_a_region_is_the_same_however_the_mask_is_stored(tmp_path):
    mask = np.zeros((40, 56), bool)
    mask[5:20, 10:50] = True
    mask[15:20, 10:14] = False
    bits = mask.astype(np.uint8)
    for name, values in {
        "bits.png": mask, "ones.png": bits, "labels.png": bits * 3, "full.png": bits * 255,
        "deep.png": bits.astype(np.uint16) * 65535, "deep_ones.png": bits.astype(np.uint16),
        "full.jpg": bits * 255, "lossy.webp": bits * 255,
        "colour.png": mask[..., None] * np.array([255, 0, 0], np.uint8),
    }.items():  # fmt: skip
        Image.fromarray(values).save(tmp_path / name)
    palette = Image.fromarray(bits, mode="P")
    palette.putpalette([0, 0, 0, 64, 0, 0])
    palette.save(tmp_path / "palette.png")
    tifffile.imwrite(tmp_path / "float.tif", mask.astype(np.float32))
    tifffile.imwrite(tmp_path / "white.tif", 255 - bits * 255, photometric=0)
    tifffile.imwrite(tmp_path / "soft.tif", np.where(mask, 0.9, 0.1).astype(np.float32))
    save_nifti(bits.T, tmp_path / "x.nii.gz", LPS)
    save_dicom(dicom(bits), tmp_path / "x.dcm")
    save_dicom(dicom(bits.astype(np.uint16) * 4095, bits=12), tmp_path / "deep.dcm")
    save_dicom(dicom(255 - bits * 255, model="MONOCHROME1"), tmp_path / "m1.dcm")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_mask(path), mask, err_msg=path.name)
    Image.fromarray(bits * 0).save(tmp_path / "none.jpg")
    assert not read_mask(tmp_path / "none.jpg").any()


@pytest.mark.promise("All eight EXIF orientations are applied, to images, masks and sizes alike.")
def test_masks_are_turned_like_images_and_must_have_their_size(tmp_path):
    Image.fromarray(colour()).save(tmp_path / "x.jpg", exif=turned(6))
    full = np.tri(40, 56, dtype=np.uint8) * 255
    Image.fromarray(full).save(tmp_path / "turned.png", exif=turned(6))
    Image.fromarray(full).save(tmp_path / "flat.png")
    shape = read_image(tmp_path / "x.jpg").shape[:2]
    mask = read_mask(tmp_path / "turned.png", shape=shape)
    np.testing.assert_array_equal(mask, np.rot90(full > 0, -1))
    with pytest.raises(ImageError, match="56 x 40"):
        read_mask(tmp_path / "flat.png", shape=shape)


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", ["tif", "nii"])
@pytest.mark.parametrize("scale", [0.02, 0.4, 1.0])
def test_probabilities_have_the_threshold_one_half(tmp_path, suffix, scale):
    soft = gaussian_filter(disc(15).astype(np.float32), 2)
    frames = np.stack([soft * 1.3 - 0.15, soft * scale, soft * 0.01])  # the first one overshoots
    check(frames.astype(np.float32), tmp_path / f"x.{suffix}", frames > 0.5)
    check(frames[2:].astype(np.float32), tmp_path / f"y.{suffix}", frames[2:] > 0.5)


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("third", [0, 180, 255])
def test_labels_count_on_every_frame_whatever_other_labels_it_holds(tmp_path, suffix, third):
    frames = np.zeros((3, 48, 64), np.uint8)
    frames[:, :20], frames[:, 30:] = 60, 120
    frames[1, 22:28] = third
    frames[2] = 0
    frames[2, 24, 3] = 60  # a single sample of the lower label
    check(frames, tmp_path / f"x.{suffix}", frames > 0)


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 4095), (np.int16, 3000)])
def test_smooth_edges_have_half_of_the_range_as_threshold(tmp_path, suffix, dtype, top):
    bright = np.rint(gaussian_filter(disc(15) * float(top), 2)).astype(dtype)
    # the last two are the flat frames above and below a smoothed region: nothing is inside
    frames = np.stack([bright, bright // 4, bright // 64])
    check(frames, tmp_path / f"x.{suffix}", frames > top // 2)
    if suffix == "tif" and dtype == np.uint16:
        tifffile.imwrite(tmp_path / "w.tif", 4095 - frames, photometric="miniswhite")
        for k in range(3):
            np.testing.assert_array_equal(read_mask(tmp_path / "w.tif", k), frames[k] > 2047)


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("levels", [(0, 1), (1, 2), (0, 255), (40, 200), (-1, 1), (0, 3.5)])
@pytest.mark.parametrize("suffix", ["tif", "nii"])
def test_the_higher_of_two_levels_is_the_region_on_every_frame(tmp_path, levels, suffix):
    mask = np.stack([disc(15), disc(0), ~disc(0)])
    frames = np.where(mask, levels[1], levels[0])
    dtype = np.float32 if levels[1] == 3.5 else np.int16
    check(frames.astype(dtype), tmp_path / f"x.{suffix}", mask)


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
        assert error.value.path == tmp_path / "x.tif" and error.value.remedy


TWO = (
    "A mask whose values can be read in two ways is refused with the option that chooses; "
    "--mask-values, --mask-ignore and --mask-invert are followed."
)
LEFT, RIGHT = (np.roll(disc(8), shift, axis=1) for shift in (-16, 16))
BOTH, OUTSIDE = LEFT | RIGHT, ~(LEFT | RIGHT)
THIN = np.zeros((48, 64), bool)
THIN[10, 5:60] = THIN[20:45, 30] = True
THIN2 = np.zeros((48, 64), bool)
THIN2[30, 5:28] = True
RIM = LEFT & ~np.roll(LEFT, 2, axis=0)


def painted(*parts: tuple[np.ndarray, object], ground: object = 0, dtype: type = np.uint8):
    """A picture of a ground with a value or colour at each part."""
    picture = np.zeros((48, 64, *np.shape(ground)), dtype) + np.asarray(ground, dtype)
    for where, value in parts:
        picture[where] = value
    return picture


def cells(count: int, dtype: type) -> np.ndarray:
    """Numbered cells of a few pixels each that fill both discs in random order of rows."""
    values = np.zeros((48, 64), dtype)
    values[BOTH] = np.arange(BOTH.sum()) * count // BOTH.sum() + 1
    return values


def with_palette(values: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([level for colour in colours for level in colour])
    return picture


VOC = painted((disc(12), 255), (disc(9), 1))
WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)
# The file's content; the region, None if it is refused; and regions under rules.
VALUES = {
    "black with alpha": (painted((BOTH, (0, 0, 0, 255)), ground=(0, 0, 0, 0)), BOTH, {}),
    "deep black with alpha": (
        painted((BOTH, (0, 65535)), ground=(0, 0), dtype=np.uint16), BOTH, {}
    ),
    "alpha in three steps": (
        painted((LEFT, (0, 0, 0, 128)), (RIGHT, (0, 0, 0, 255)), ground=(0, 0, 0, 0)), BOTH, {}
    ),
    "palette on white": (
        with_palette(painted((LEFT, 1), (RIGHT, 2)), WHITE, RED, (0, 0, 255)),
        BOTH, {"values=2": RIGHT, "values=#ff0000": LEFT, "invert": BOTH},
    ),
    "palette white then black": (
        with_palette(painted((BOTH, 1)), WHITE, BLACK),
        None, {"values=1": BOTH, "values=0": OUTSIDE, "invert": BOTH},
    ),
    "palette with labels and 255": (
        with_palette(VOC, BLACK, (128, 0, 0), *[BLACK] * 253, (224, 224, 192)),
        None, {"ignore=255": disc(9)},
    ),
    "palette never set": (with_palette(VOC, *[BLACK] * 256), None, {"ignore=255": disc(9)}),
    "colours on white": (
        painted((LEFT, RED), (RIGHT, (0, 0, 255)), ground=WHITE),
        None, {"invert": BOTH, "values=#0000ff": RIGHT, "ignore=255 invert": BOTH},
    ),
    "colours and a white rim": (
        painted((LEFT, RED), (RIM, WHITE), (RIGHT, (0, 128, 0)), ground=BLACK),
        None, {"ignore=255": BOTH & ~RIM, "values=#ff0000,#008000": BOTH & ~RIM},
    ),
    "inverted": (painted((BOTH, 0), ground=255), OUTSIDE, {"invert": BOTH}),
    "inverted labels": (
        painted((LEFT, 0), (RIGHT, 128), ground=255),
        ~LEFT, {"invert": BOTH, "values=0,128": BOTH, "values=0": LEFT},
    ),
    "inverted labels on 2": (
        painted((disc(12), 1), (disc(6), 0), ground=2), ~disc(6), {"invert": disc(12)}
    ),
    "label and rim of 255": (
        painted((LEFT, 1), (RIM, 255)),
        None, {"ignore=255": LEFT & ~RIM, "values=1,255": LEFT, "values=255": RIM},
    ),
    "thin label and 255": (painted((THIN, 1), (RIM, 255)), None, {"ignore=255": THIN & ~RIM}),
    "many labels and 255": (
        painted((RIGHT, cells(30, np.uint8)[RIGHT]), (RIM, 255)), None, {"ignore=255": RIGHT}
    ),
    "uneven labels": (painted((LEFT, 1), (RIGHT, 200)), BOTH, {"values=200": RIGHT}),
    "uneven deep labels": (
        painted((LEFT, 1), (RIGHT, 300), dtype=np.uint16), BOTH, {"values=1": LEFT}
    ),
    "even labels up to 255": (painted((LEFT, 128), (RIGHT, 255)), BOTH, {}),
    "thin labels": (painted((THIN, 90), (THIN2, 200)), THIN | THIN2, {}),
    "cells": (cells(150, np.uint8), BOTH, {}),
    "many cells": (cells(330, np.uint16), BOTH, {}),
    "no ground": (painted((LEFT, 2), (RIGHT, 3), ground=1), None, {"values=2,3": BOTH}),
    "noise at both ends": (
        np.where(BOTH, 255 - grey(48, 64) % 4, grey(48, 64) % 5).astype(np.uint8), BOTH, {}
    ),
    "a rim of a colour": (
        np.where(disc(9)[..., None], (128, 0, 0), disc(12)[..., None] * (224, 224, 192))
        .astype(np.uint8),
        None, {"ignore=#e0e0c0": disc(9), "values=#800000": disc(9)},
    ),
    "a rim of a colour by a cross": (
        painted((BOTH, (128, 0, 0)), (BOTH & ~binary_erosion(BOTH), (9, 99, 9)), ground=BLACK),
        None, {"ignore=#096309": binary_erosion(BOTH), "values=#800000,#096309": BOTH},
    ),
    "a rim around one of two colours": (
        painted(
            (LEFT, (128, 0, 0)), (RIGHT, RED), (RIGHT & ~binary_erosion(RIGHT), (9, 99, 9)),
            ground=BLACK,
        ),
        None, {"values=#800000": LEFT},
    ),
    "a thin region away from another": (
        painted((LEFT, (128, 0, 0)), (THIN & ~LEFT, (9, 99, 9)), ground=BLACK), LEFT | THIN, {}
    ),
    "two colours beside each other": (
        np.where(LEFT[..., None], (128, 0, 0), RIGHT[..., None] * (0, 128, 0)).astype(np.uint8),
        BOTH, {},
    ),
    "ground 2": (painted((LEFT, 1), ground=2), None, {"values=1": LEFT}),
    "a picture": (grey(48, 64), None, {}),
    "a dark picture": (
        np.random.default_rng(0).gamma(1.2, 9, (48, 64)).clip(0, 120).astype(np.uint8), None, {}
    ),
    "noise below 255": (
        painted((BOTH, 254), (BOTH & RIM, 253), (THIN & ~BOTH, 1)),
        None, {"values=253,254": BOTH},
    ),
}  # fmt: skip


@pytest.mark.promise(TWO)
@pytest.mark.parametrize(("values", "region", "rules"), VALUES.values(), ids=VALUES)
def test_values_are_understood_or_refused_and_the_options_choose(tmp_path, values, region, rules):
    path = tmp_path / "x.png"
    if isinstance(values, np.ndarray) and values.dtype == np.uint16 and values.ndim == 3:
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        (Image.fromarray(values) if isinstance(values, np.ndarray) else values).save(path)
    if region is None:
        with pytest.raises(Ambiguous) as error:
            read_mask(path)
        assert error.value.path == path and "--mask-" in error.value.remedy
    else:
        np.testing.assert_array_equal(read_mask(path), region)
    for rule, expected in rules.items():
        mask = read_mask(MaskFiles((path,), rule))
        np.testing.assert_array_equal(mask, expected, err_msg=rule)


@pytest.mark.promise(TWO)
def test_areas_of_one_half_are_a_label_or_no_probability(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.where(disc(9), 1, disc(15) / 2).astype(np.float32))
    with pytest.raises(Ambiguous, match="areas of exactly"):
        read_mask(tmp_path / "x.tif")
    for rule, region in {"values=0.5,1": disc(15), "values=1": disc(9)}.items():
        mask = read_mask(MaskFiles((tmp_path / "x.tif",), rule))
        np.testing.assert_array_equal(mask, region)


@pytest.mark.promise(TWO)
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_masks_with_other_levels_than_black_and_white_are_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    for picture, rule, region in (
        (painted((BOTH, 40)), "values=40", BOTH),
        (painted((LEFT, 128), (RIGHT, 255)), "values=128,255", BOTH),
        (grey(48, 64), "", None),
    ):
        Image.fromarray(picture).save(path)
        with pytest.raises(Ambiguous):
            read_mask(path)
        if region is not None:
            differing = read_mask(MaskFiles((path,), rule)) ^ region
            assert differing.sum() < 0.1 * region.sum()
    ground = gaussian_filter(np.random.default_rng(0).uniform(0, 80, (96, 128, 3)), (2, 2, 0))
    ground[20:50, 20:60] = (230, 40, 30)  # a colour drawn on a dark picture
    Image.fromarray(ground.astype(np.uint8)).save(path)
    with pytest.raises(Ambiguous, match="picture or an overlay"):
        read_mask(path)
    for empty_or_full in (0, 255):
        Image.fromarray(painted(ground=empty_or_full)).save(path)
        assert read_mask(path).all() == read_mask(path).any() == bool(empty_or_full)


@pytest.mark.parametrize("rule", ["values=", "values=red", "values=1;2", "ignore", "largest"])
def test_a_rule_that_cannot_be_read_is_refused(tmp_path, rule):
    Image.fromarray(painted((BOTH, 255))).save(tmp_path / "x.png")
    with pytest.raises(ConfigError):
        read_mask(MaskFiles((tmp_path / "x.png",), rule))


@pytest.mark.promise(ONE)
@pytest.mark.parametrize("high", [0.5, 0.3, 1 / 255])
def test_of_two_fractions_with_0_the_higher_one_is_the_region(tmp_path, high):
    check(disc(9)[None] * np.float32(high), tmp_path / "x.tif", disc(9)[None])
    labels = disc(9).astype(np.float32) + disc(4)
    tifffile.imwrite(tmp_path / "labels.tif", labels * np.float32(high / 2))
    with pytest.raises(Ambiguous):  # probabilities below 0.5, all of them, or scaled labels
        read_mask(tmp_path / "labels.tif")
