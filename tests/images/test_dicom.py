"""DICOM: values in the order of the standard, every compression, damage refused, no identity."""

from __future__ import annotations

import io
import logging
import struct
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.errors import ImageError
from pipeline.images import SkippedFile, patient_code, probe, read_image, read_mask
from tests.images.makers import BIRTH, ENCODERS, NAME, PATIENT, colour, dicom, grey, rgb, save_dicom

# The reader silences these; pytest turns all warnings on again.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.pixels.decoders.base"),
]
STEPS = "DICOM is shown by padding removal, modality LUT, VOI and one inversion, in this order."
WINDOWS = "DICOM windows (several, decimal, of width 0, sigmoid, exact) and LUTs are applied."
SIGN = "The sign of a DICOM LUT's first value depends on the file, never on the content of a frame."
SYNTAXES = "Every DICOM transfer syntax and compression shows the same image as uncompressed."
DAMAGE = "A truncated or damaged file is refused by name; it is never shown black."
IDENTITY = "No name, id or date of a DICOM header reaches a file, a message or a log."
FRAMES = "Pages, frames and slices are rows with a frame index."


@pytest.fixture
def show(tmp_path):
    """Save a data set and read it."""

    def run(dataset: Dataset, frame: int = 0) -> np.ndarray:
        return read_image(save_dicom(dataset, tmp_path / "shown.dcm"), frame)

    return run


def elements(**values: str) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def lut(table: np.ndarray, first: int, bits: int = 16, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(table), first, bits])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


def packed(pixels: np.ndarray, syntax: str, **tags: object) -> Dataset:
    """A compressed data set."""
    if syntax == RLELossless:
        dataset = dicom(pixels, **tags)
        dataset.compress(RLELossless)
        return dataset
    dataset = dicom(pixels, syntax=syntax, **tags)
    frames = pixels if tags.get("frames") else [pixels]
    dataset.PixelData = encapsulate([ENCODERS[syntax](frame, tags.get("bits")) for frame in frames])
    dataset["PixelData"].VR = "OB"
    return dataset


# Values ---------------------------------------------------------------------------------------


def test_eight_bits_are_shown_unchanged(tmp_path, show):
    np.testing.assert_array_equal(show(dicom(grey())), rgb(grey()))
    np.testing.assert_array_equal(show(dicom(colour(), model="RGB")), colour())
    assert [(f.width, f.height) for f in probe(tmp_path / "shown.dcm")] == [(56, 40)]


def test_deep_grey_without_a_window_equals_the_same_samples_in_png(tmp_path, show):
    deep = grey().astype(np.uint16) * 14 + 37
    Image.fromarray(deep).save(tmp_path / "x.png")
    expected = read_image(tmp_path / "x.png")
    np.testing.assert_array_equal(show(dicom(deep, bits=12)), expected)
    signed = dicom(deep.astype(np.int16) - 1000, RescaleSlope="2", RescaleIntercept="-24")
    np.testing.assert_array_equal(show(signed), expected)


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_modality_then_window_equals_pydicom(show, function):
    stored = grey().astype(np.int16) * 8
    dataset = dicom(stored, RescaleSlope="1.5", RescaleIntercept="-1000.5")
    dataset.WindowCenter, dataset.WindowWidth = "400.5", "900.25"
    dataset.VOILUTFunction = function
    y = apply_voi_lut(stored * 1.5 - 1000.5, dataset)
    low, high = (-32768 * 1.5 - 1000.5), (32767 * 1.5 - 1000.5)
    expected = np.rint((y - low) / (high - low) * 255)
    assert np.abs(show(dataset)[..., 0] - expected).max() <= 1


@pytest.mark.promise(WINDOWS)
def test_the_first_usable_window_is_applied(show):
    deep = grey().astype(np.uint16) * 8
    one = show(dicom(deep, WindowCenter="900", WindowWidth="1200"))
    many = dicom(deep, WindowCenter=["5", "900", "50"], WindowWidth=["0", "1200", "70"])
    np.testing.assert_array_equal(show(many), one)
    none = dicom(deep, WindowCenter="100", WindowWidth="0")
    np.testing.assert_array_equal(show(none), show(dicom(deep)))


@pytest.mark.promise(WINDOWS)
def test_a_linear_exact_window_has_the_edges_of_the_standard(show):
    # C.11.2.1.3.2: c +- w / 2 are black and white; LINEAR shifts c by 0.5 and w by 1
    stored = np.tile(np.arange(8, 17, dtype=np.int16), (40, 1))
    window = {"WindowCenter": "12", "WindowWidth": "4"}
    expected = {
        "LINEAR_EXACT": [0, 0, 0, 64, 128, 191, 255, 255, 255],
        "LINEAR": [0, 0, 0, 85, 170, 255, 255, 255, 255],
    }
    for function, row in expected.items():
        array = show(dicom(stored, VOILUTFunction=function, **window))
        assert array[0, :, 0].tolist() == row, function


@pytest.mark.promise(WINDOWS)
def test_lut_sequences_of_both_stages_are_applied_in_either_byte_order(show):
    stored = (grey() // 16).astype(np.uint16)  # 0..15
    modality = np.arange(16) * 100 + 50
    voi = np.linspace(0, 1, 1600) ** 2 * 4095
    dataset = dicom(stored, ModalityLUTSequence=[lut(modality, 0)])
    dataset.VOILUTSequence = [lut(voi, 10, 12)]
    expected = np.rint(voi.astype(np.uint16)[modality[stored] - 10] / 4095 * 255)
    np.testing.assert_array_equal(show(dataset)[..., 0], expected)
    table = (np.arange(256) ** 2 // 16).astype(np.uint16)
    little = dicom(grey(), VOILUTSequence=[lut(table, 0, 12)])
    big = dicom(grey(), syntax=ExplicitVRBigEndian, VOILUTSequence=[lut(table.byteswap(), 0, 12)])
    np.testing.assert_array_equal(show(big), show(little))


HU = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
WIDE = {"WindowCenter": "32768", "WindowWidth": "65536"}
RAMP = np.linspace(0, 65535, 2400).astype(np.uint16)


def through(table: np.ndarray, values: np.ndarray, first: int) -> np.ndarray:
    entries = table[np.clip(values.astype(int) - first, 0, len(table) - 1)]
    return rgb(np.rint(entries / 65535 * 255).astype(np.uint8))


@pytest.mark.promise(SIGN)
@pytest.mark.parametrize("lowest", [0, 1024, 1100])
@pytest.mark.parametrize("how", ["US", "SS", "implicit"])
def test_a_negative_first_value_of_a_voi_lut_whatever_the_frame_holds(tmp_path, how, lowest):
    stored = grey().astype(np.uint16) * 4 + lowest  # from 1024 on no HU is negative
    first, vr = (65536 - 1024, "US") if how == "US" else (-1024, "SS")
    dataset = dicom(stored, bits=12, VOILUTSequence=[lut(RAMP, first, vr=vr)], **HU)
    path = tmp_path / "x.dcm"
    if how == "implicit":
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True, implicit_vr=True, little_endian=True)
    else:
        save_dicom(dataset, path)
    expected = through(RAMP, stored.astype(int) - 1024, -1024)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.promise(SIGN)
@pytest.mark.parametrize("lowest", [-1, 0])
def test_a_negative_first_value_of_a_modality_lut_by_the_sign_of_the_pixels(show, lowest):
    stored = (grey().astype(np.int16) * 4 + lowest).astype(np.int16)
    array = show(dicom(stored, ModalityLUTSequence=[lut(RAMP, 65536 - 1024)], **WIDE))
    assert np.abs(array.astype(int) - through(RAMP, stored, -1024)).max() <= 1


@pytest.mark.promise(SIGN)
@pytest.mark.parametrize(("name", "tags"), [("VOILUTSequence", {}), ("ModalityLUTSequence", WIDE)])
def test_a_large_first_value_of_unsigned_samples_is_not_negative(show, name, tags):
    stored = grey().astype(np.uint16) * 8 + 40_000
    array = show(dicom(stored, **{name: [lut(RAMP, 40_000)]}, **tags))
    assert np.abs(array.astype(int) - through(RAMP, stored, 40_000)).max() <= 1


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("shape", [{}, {"PresentationLUTShape": "INVERSE"}])
def test_monochrome1_is_inverted_exactly_once(show, deep, shape):
    values = grey().astype(np.uint16) * 9 if deep else grey()
    tags = {"WindowCenter": "1100", "WindowWidth": "2000"} if deep else {}
    plain = show(dicom(values, **tags))
    np.testing.assert_array_equal(
        show(dicom(values, model="MONOCHROME1", **tags, **shape)), 255 - plain
    )


def test_samples_in_the_upper_bits_and_overlays_in_unused_bits(show):
    deep = grey().astype(np.uint16) * 14
    window = {"WindowCenter": "1900", "WindowWidth": "3000"}
    plain = show(dicom(deep, bits=12, **window))
    np.testing.assert_array_equal(show(dicom(deep << 4, bits=12, HighBit=15, **window)), plain)
    overlay = deep | ((grey() > 100).astype(np.uint16) << 14)
    np.testing.assert_array_equal(show(dicom(overlay, bits=12, **window)), plain)


# Padding --------------------------------------------------------------------------------------


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("model", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_does_not_count_for_the_range_and_is_black(show, model):
    deep = grey().astype(np.int16) * 4
    plain = show(dicom(deep, model=model))
    padded = np.vstack([deep, np.full((30, 56), -2000, np.int16)])
    dataset = dicom(padded, model=model)
    dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000, written unsigned
    for limit in (None, -1980):
        if limit is not None:
            padded[45:, :] = -1990
            dataset.PixelData = padded.tobytes()
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
        array = show(dataset)
        np.testing.assert_array_equal(array[:40], plain)
        assert not array[40:].any()


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("limit", [None, -9000.0])
def test_padding_of_float_pixels(show, double, limit):
    values = (grey() / 10).astype(np.float64 if double else np.float32)
    padded = np.vstack([values, np.full_like(values, -9999)])
    padded[50:] = -9999 if limit is None else -9500
    prefix = "DoubleFloat" if double else "Float"
    arrays = []
    for k, pixels in enumerate((values, padded)):
        dataset = dicom(grey())
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(dataset, name)
        dataset.Rows, dataset.BitsAllocated = len(pixels), 64 if double else 32
        setattr(dataset, f"{prefix}PixelData", pixels.tobytes())
        if k:
            setattr(dataset, f"{prefix}PixelPaddingValue", -9999.0)
        if k and limit is not None:
            setattr(dataset, f"{prefix}PixelPaddingRangeLimit", limit)
        arrays.append(show(dataset))
    np.testing.assert_array_equal(arrays[1][:40], arrays[0])
    assert not arrays[1][40:].any()


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("padding", [("SS", -2048), ("US", 0xF800), ("US", 0x0800)])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_signed_padding_with_and_without_sign_extension(show, syntax, padding):
    signed = grey().astype(np.int16) * 8 - 1000
    plain = show(dicom(signed, bits=12))
    padded = np.vstack([signed, np.full_like(signed, -2048)])
    dataset = dicom(padded, bits=12)
    dataset.add_new("PixelPaddingValue", *padding)
    bare = padded.view(np.uint16) & 0xFFF  # the high bits are zero
    dataset.PixelData = bare.tobytes()
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([ENCODERS[syntax](bare, 12)])
        dataset["PixelData"].VR = "OB"
    array = show(dataset)
    np.testing.assert_array_equal(array[:40], plain)
    assert not array[40:].any()


@pytest.mark.promise(STEPS)
def test_a_padding_value_in_unused_bits_is_not_a_sample_of_zero(show):
    values = grey().astype(np.uint16) * 16
    plain = show(dicom(values, bits=12))
    dataset = dicom(np.vstack([values, np.full_like(values, 0x8000)]), bits=12)
    dataset.add_new("PixelPaddingValue", "US", 0x8000)
    dataset.PhotometricInterpretation = "MONOCHROME1"  # zero is white, unlike padding
    array = show(dataset)
    np.testing.assert_array_equal(array[:40], 255 - plain)
    assert not array[40:].any()


# Colour and frames ----------------------------------------------------------------------------


@pytest.mark.promise(SYNTAXES)
@pytest.mark.parametrize(
    ("name", "subsampling"), [("YBR_FULL", 0), ("YBR_FULL_422", 1), ("RGB", 0)]
)
def test_a_colour_jpeg_is_the_same_inside_dicom_and_outside(tmp_path, show, name, subsampling):
    # some headers say RGB although the stream is YCbCr, as here: no false colours
    buffer = io.BytesIO()
    Image.fromarray(colour(64, 64)).save(buffer, "JPEG", quality=90, subsampling=subsampling)
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue())
    dataset = dicom(colour(64, 64), model=name, syntax=JPEGBaseline8Bit)
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].VR = "OB"
    assert np.abs(show(dataset).astype(int) - read_image(tmp_path / "x.jpg")).max() <= 3


def test_ybr_becomes_rgb(show):
    ybr = np.asarray(Image.fromarray(colour()).convert("YCbCr"))
    assert np.abs(show(dicom(ybr, model="YBR_FULL")).astype(int) - colour()).max() <= 3


@pytest.mark.promise(FRAMES)
def test_frames_have_their_own_and_shared_functional_groups(tmp_path, show):
    frames = np.stack([grey(seed=s).astype(np.int16) * 8 for s in range(2)])
    rescale = [{"RescaleSlope": str(1 + k), "RescaleIntercept": str(-100 * k)} for k in range(2)]
    windows = [{"WindowCenter": str(1000 + 200 * k), "WindowWidth": "900"} for k in range(2)]
    for shared in (False, True):
        dataset = dicom(frames, frames=2)
        groups = [elements(PixelValueTransformationSequence=[elements(**r)]) for r in rescale]
        window = [[elements(**windows[0 if shared else k])] for k in range(2)]
        if shared:
            dataset.SharedFunctionalGroupsSequence = [elements(FrameVOILUTSequence=window[0])]
        else:
            for group, item in zip(groups, window, strict=True):
                group.FrameVOILUTSequence = item
        dataset.PerFrameFunctionalGroupsSequence = groups
        path = save_dicom(dataset, tmp_path / "x.dcm")
        assert [f.frame for f in probe(path)] == [0, 1]
        for k in range(2):
            single = show(dicom(frames[k], **windows[0 if shared else k], **rescale[k]))
            assert len(np.unique(single)) > 50
            np.testing.assert_array_equal(read_image(path, k), single)
    with pytest.raises(ImageError, match="no frame 2"):
        read_image(path, 2)


@pytest.mark.promise(FRAMES)
@pytest.mark.parametrize("size", [(5, 7), (8, 8), (3, 3)])
def test_frames_of_one_bit_that_start_within_a_byte(tmp_path, size):
    bits = np.random.default_rng(0).random((4, *size)) > 0.5
    dataset = dicom(bits.astype(np.uint8), frames=4)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
    raw = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    path = save_dicom(dataset, tmp_path / "x.dcm")
    for k in range(4):
        np.testing.assert_array_equal(read_image(path, k), rgb(bits[k].astype(np.uint8) * 255))
        np.testing.assert_array_equal(read_mask(path, k), bits[k])


# Files ----------------------------------------------------------------------------------------


@pytest.mark.promise(SYNTAXES)
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_transfer_syntaxes_without_compression(show, syntax):
    deep = grey().astype(np.uint16) * 14
    stored = deep.byteswap() if syntax == ExplicitVRBigEndian else deep
    plain = show(dicom(deep, bits=12))
    np.testing.assert_array_equal(show(dicom(stored, bits=12, syntax=syntax)), plain)


COMPRESSED = [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGBaseline8Bit]
DEEP = grey().astype(np.uint16) * 16 + 7  # 12 bits
SIGNED = DEEP.astype(np.int16) * 7 - 14_000
WINDOW = {"WindowCenter": "-1000", "WindowWidth": "20000"}
STACK = np.stack([grey(seed=s) for s in range(3)])


@pytest.mark.promise(SYNTAXES)
@pytest.mark.parametrize(
    ("syntax", "pixels", "tags"),
    [
        *((s, grey(), {}) for s in COMPRESSED),
        *((s, DEEP, {"bits": 12}) for s in COMPRESSED[:4]),
        *((s, SIGNED, WINDOW) for s in COMPRESSED[:2]),
        *((s, colour(), {"model": "RGB"}) for s in (RLELossless, JPEGLSLossless)),
        *((s, STACK, {"frames": 3}) for s in COMPRESSED[:2]),
    ],
    ids=lambda v: getattr(v, "keyword", None) or str(getattr(v, "dtype", "")) or "-".join(v),
)
def test_every_compression_shows_the_image_as_uncompressed(tmp_path, syntax, pixels, tags):
    plain = save_dicom(dicom(pixels, **tags), tmp_path / "a.dcm")
    path = save_dicom(packed(pixels, syntax, **tags), tmp_path / "b.dcm")
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert probe(path) == probe(plain)
    shown = [read_image(plain, f.frame) for f in probe(plain)]
    assert len({array.tobytes() for array in shown}) == max(1, tags.get("frames", 0))
    for frame, array in enumerate(shown):
        far = np.abs(read_image(path, frame).astype(int) - array).max()
        assert far <= (8 if syntax == JPEGBaseline8Bit else 0)


@pytest.mark.promise(DAMAGE)
@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_truncated_or_foreign_stream_is_refused(tmp_path, syntax):
    dataset = packed(grey(64, 64), syntax)
    path = save_dicom(dataset, tmp_path / "whole.dcm")
    whole = path.read_bytes()
    for keep in (0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(ImageError):
            read_image(path)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    for bad in (stream[: len(stream) // 2], b"\0" * len(stream), b"hello"):
        dataset.PixelData = encapsulate([bad])
        with pytest.raises(ImageError):
            read_image(save_dicom(dataset, path))


@pytest.mark.promise(DAMAGE)
def test_rle_segments_outside_the_frame_are_refused_without_a_crash(tmp_path):
    dataset = packed(grey().astype(np.uint16) * 257, RLELossless)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    first, second = struct.unpack("<2I", stream[4:12])
    for k, starts in enumerate(
        [(first, 2**31 - 8), (2**31 - 8, second), (second, first), (first, first), (8, second)]
    ):
        dataset.PixelData = encapsulate([stream[:4] + struct.pack("<2I", *starts) + stream[12:]])
        save_dicom(dataset, tmp_path / f"{k}.dcm")
    # in a subprocess: reading out of bounds would end the tests
    code = (
        "import sys; from pipeline.errors import ImageError; from pipeline.images import read_image"
        "\nfor path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except ImageError: print('refused')\n"
    )
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n" * 5), done.stderr


@pytest.mark.promise(DAMAGE)
def test_pixel_data_that_does_not_fit_the_header_is_refused(tmp_path):
    other_size = packed(grey(64, 64), JPEG2000Lossless)
    other_size.Rows = 32
    with pytest.raises(ImageError, match="64 x 32"):
        read_image(save_dicom(other_size, tmp_path / "size.dcm"))
    short = dicom(grey())
    short.PixelData = short.PixelData[:-100]
    for dataset in (short, dicom(grey(), NumberOfFrames=2**31 - 1)):
        for read in (probe, read_image):
            with pytest.raises(ImageError, match="truncated"):
                read(save_dicom(dataset, tmp_path / "x.dcm"))
    unknown = dicom(grey(), syntax="1.2.840.10008.1.2.4.100")
    unknown.PixelData = encapsulate([b"\0" * 100])
    with pytest.raises(ImageError, match="MPEG2"):
        read_image(save_dicom(unknown, tmp_path / "x.dcm"))


@pytest.mark.promise("DICOM files without preamble or suffix are read.")
def test_files_without_preamble_or_suffix_are_read(tmp_path):
    buffer = io.BytesIO()
    dataset = dicom(grey(), syntax=ImplicitVRLittleEndian)
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[128:132] != b"DICM"
    (tmp_path / "IM0001").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "IM0001"), rgb(grey()))


@pytest.mark.promise("A DICOMDIR and DICOM objects without pixels are skipped with the reason.")
def test_dicomdir_and_objects_without_pixels_are_skipped(tmp_path):
    directory = dicom(grey())
    del directory.PixelData
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    path = save_dicom(directory, tmp_path / "DICOMDIR")
    for read in (probe, read_image, read_mask):
        with pytest.raises(SkippedFile, match="DICOMDIR"):
            read(path)
    report = dicom(grey())
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, name)
    with pytest.raises(SkippedFile) as caught:
        probe(save_dicom(report, tmp_path / "sr.dcm"))
    assert "without pixels" in caught.value.reason


@pytest.mark.promise(IDENTITY)
def test_no_identity_appears_in_errors_warnings_or_logs(tmp_path, caplog, recwarn):
    path = save_dicom(dicom(grey()), tmp_path / "x.dcm")
    data = path.read_bytes()
    seen = []
    with caplog.at_level(logging.DEBUG):
        for cut in range(0, len(data), 37):  # parsers quote what they find in broken headers
            path.write_bytes(data[:cut] + b"\xff" * 4 + data[cut + 4 :])
            for read in (probe, read_image, patient_code):
                try:
                    seen.append(str(read(path))[:500])
                except ImageError as error:
                    seen += [str(error), repr(error), str(error.__cause__)]
    seen += [r.getMessage() for r in caplog.records] + [str(w.message) for w in recwarn.list]
    assert not [text for text in seen if any(s in text for s in (NAME, "Doe", PATIENT, BIRTH))]
    assert any("truncated" in text or "damaged" in text for text in seen)
