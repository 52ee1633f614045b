"""Rules of DICOM that hold for the file, whatever one frame of it happens to hold."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from pipeline.images import probe, read_image, read_mask
from tests.images.makers import ENCODERS, dicom, grey, rgb, save_dicom

# Outside of tests the reader silences these; pytest turns all warnings on again.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.pixels.decoders.base"),
]


def lut(table: np.ndarray, first: int, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(table), first, 16])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


HU = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
RAMP = np.linspace(0, 65535, 2400).astype(np.uint16)


def shown(table: np.ndarray, values: np.ndarray, first: int) -> np.ndarray:
    entries = table[np.clip(values.astype(int) - first, 0, len(table) - 1)]
    return rgb(np.rint(entries / 65535 * 255).astype(np.uint8))


@pytest.mark.parametrize("lowest", [0, 1024, 1100])
@pytest.mark.parametrize("how", ["US", "SS", "implicit"])
def test_a_negative_first_value_of_a_voi_lut_is_read_so_whatever_the_frame_holds(
    tmp_path, how, lowest
):
    stored = grey().astype(np.uint16) * 4 + lowest  # of 1024 and above no HU is negative
    first, vr = (65536 - 1024, "US") if how == "US" else (-1024, "SS")
    dataset = dicom(stored, bits=12, VOILUTSequence=[lut(RAMP, first, vr)], **HU)
    path = tmp_path / "x.dcm"
    if how == "implicit":
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True, implicit_vr=True, little_endian=True)
    else:
        save_dicom(dataset, path)
    expected = shown(RAMP, stored.astype(int) - 1024, -1024)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("lowest", [-1, 0])
def test_a_negative_first_value_of_a_modality_lut_is_read_so_by_the_sign_of_the_pixels(
    tmp_path, lowest
):
    stored = (grey().astype(np.int16) * 4 + lowest).astype(np.int16)
    first = {"ModalityLUTSequence": [lut(RAMP, 65536 - 1024)]}
    tags = {"WindowCenter": "32768", "WindowWidth": "65536"}
    path = save_dicom(dicom(stored, **first, **tags), tmp_path / "x.dcm")
    far = read_image(path).astype(int) - shown(RAMP, stored, -1024)
    assert np.abs(far).max() <= 1


def test_a_large_first_value_of_unsigned_samples_stays_what_it_is(tmp_path):
    stored = grey().astype(np.uint16) * 8 + 40_000
    table = lut(RAMP, 40_000)
    tags = {"WindowCenter": "32768", "WindowWidth": "65536"}
    for name, sequence in (("VOILUTSequence", {}), ("ModalityLUTSequence", tags)):
        dataset = dicom(stored, **{name: [table]}, **sequence)
        far = read_image(save_dicom(dataset, tmp_path / "x.dcm")).astype(int)
        assert np.abs(far - shown(RAMP, stored, 40_000)).max() <= 1, name


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("limit", [None, -9000.0])
def test_padding_of_float_pixels_leaves_the_range_alone_and_is_black(tmp_path, double, limit):
    values = (grey() / 10).astype(np.float64 if double else np.float32)
    padded = np.vstack([values, np.full_like(values, -9999)])
    padded[50:] = -9999 if limit is None else -9500
    arrays = []
    for k, pixels in enumerate((values, padded)):
        dataset = dicom(grey())
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, name)
        prefix = "DoubleFloat" if double else "Float"
        dataset.Rows, dataset.BitsAllocated = len(pixels), 64 if double else 32
        setattr(dataset, f"{prefix}PixelData", pixels.tobytes())
        if k:
            setattr(dataset, f"{prefix}PixelPaddingValue", -9999.0)
        if k and limit is not None:
            setattr(dataset, f"{prefix}PixelPaddingRangeLimit", limit)
        arrays.append(read_image(save_dicom(dataset, tmp_path / f"{k}.dcm")))
    np.testing.assert_array_equal(arrays[1][:40], arrays[0])
    assert not arrays[1][40:].any()


PACKED = (JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless)


@pytest.mark.parametrize("padding", [("SS", -2048), ("US", 0xF800), ("US", 0x0800)])
@pytest.mark.parametrize("syntax", [None, *PACKED], ids=lambda s: getattr(s, "keyword", "native"))
def test_signed_padding_and_samples_are_the_same_with_and_without_extended_sign(
    tmp_path, syntax, padding
):
    signed = grey().astype(np.int16) * 8 - 1000
    plain = read_image(save_dicom(dicom(signed, bits=12), tmp_path / "a.dcm"))
    padded = np.vstack([signed, np.full_like(signed, -2048)])
    dataset = dicom(padded, bits=12)
    dataset.add_new("PixelPaddingValue", *padding)
    bare = padded.view(np.uint16) & 0xFFF  # the high bits are left at zero
    dataset.PixelData = bare.tobytes()
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([ENCODERS[syntax](bare, 12)])
        dataset["PixelData"].VR = "OB"
    array = read_image(save_dicom(dataset, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(array[:40], plain)
    assert not array[40:].any()


def test_a_padding_value_that_only_unused_bits_hold_takes_no_sample_of_zero(tmp_path):
    values = grey().astype(np.uint16) * 16
    plain = read_image(save_dicom(dicom(values, bits=12), tmp_path / "a.dcm"))
    dataset = dicom(np.vstack([values, np.full_like(values, 0x8000)]), bits=12)
    dataset.add_new("PixelPaddingValue", "US", 0x8000)
    dataset.PhotometricInterpretation = "MONOCHROME1"  # where zero is white, not black as padding
    array = read_image(save_dicom(dataset, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(array[:40], 255 - plain)
    assert not array[40:].any()


def group(**items: Dataset) -> Dataset:
    one = Dataset()
    for name, item in items.items():
        setattr(one, name, [item])
    return one


def tags(**values: str) -> Dataset:
    one = Dataset()
    for name, value in values.items():
        setattr(one, name, value)
    return one


def test_shared_windows_and_the_rescale_of_each_frame_are_followed(tmp_path):
    frames = np.stack([grey(seed=s).astype(np.int16) * 8 for s in range(2)])
    rescale = [{"RescaleSlope": str(1 + k), "RescaleIntercept": str(-100 * k)} for k in range(2)]
    window = {"WindowCenter": "1000", "WindowWidth": "2000"}
    dataset = dicom(frames, frames=2)
    dataset.SharedFunctionalGroupsSequence = [group(FrameVOILUTSequence=tags(**window))]
    dataset.PerFrameFunctionalGroupsSequence = [
        group(PixelValueTransformationSequence=tags(**rescale[k])) for k in range(2)
    ]
    path = save_dicom(dataset, tmp_path / "x.dcm")
    for k in range(2):
        one = save_dicom(dicom(frames[k], **window, **rescale[k]), tmp_path / "one.dcm")
        assert len(np.unique(read_image(one))) > 50
        np.testing.assert_array_equal(read_image(path, k), read_image(one))


def test_a_linear_exact_window_has_the_edges_of_the_standard(tmp_path):
    # C.11.2.1.3.2: c +- w / 2 are black and white; LINEAR shifts c by a half and w by one.
    stored = np.tile(np.arange(8, 17, dtype=np.int16), (40, 1))
    window = {"WindowCenter": "12", "WindowWidth": "4"}
    expected = {
        "LINEAR_EXACT": [0, 0, 0, 64, 128, 191, 255, 255, 255],
        "LINEAR": [0, 0, 0, 85, 170, 255, 255, 255, 255],
    }
    for function, row in expected.items():
        path = save_dicom(dicom(stored, VOILUTFunction=function, **window), tmp_path / "x.dcm")
        assert read_image(path)[0, :, 0].tolist() == row, function


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (3, 3)])
def test_frames_of_one_bit_that_start_within_a_byte_are_read(tmp_path, size):
    bits = np.random.default_rng(0).random((4, *size)) > 0.5
    dataset = dicom(bits.astype(np.uint8), frames=4)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    raw = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    path = save_dicom(dataset, tmp_path / "x.dcm")
    assert len(probe(path)) == 4
    for k in range(4):
        np.testing.assert_array_equal(read_image(path, k), rgb(bits[k].astype(np.uint8) * 255))
        np.testing.assert_array_equal(read_mask(path, k), bits[k])
