"""DICOM: values in the order of the standard, compression, damage, palettes, no identity."""

from __future__ import annotations

import io
import logging
import struct
import time
from pathlib import Path

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
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.errors import ImageError
from pipeline.images import SkippedFile, dicom_capture, patient_code, probe, read_image, read_mask
from pipeline.images.dicom import COLOURS, PALETTE
from tests.images.makers import (
    BIRTH,
    ENCODERS,
    NAME,
    PATIENT,
    colour,
    dicom,
    grey,
    lut,
    rgb,
    save_dicom,
)  # fmt: skip

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
PALETTES = "DICOM palettes show the colours of the PNG, or are refused (damaged, segmented)."
KEY = "PIPELINE_PATIENT_KEY"
GROUPED = "DICOM images are grouped by patient by a one-way code."
FRAMES = "Pages, frames and slices are rows with a frame index."


@pytest.fixture
def show(tmp_path):
    """Save a data set and read it."""

    def run(dataset: Dataset, frame: int = 0) -> np.ndarray:
        return read_image(save_dicom(dataset, tmp_path / "shown.dcm"), frame)

    return run


def elements(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def packed(pixels: np.ndarray, syntax: str, **tags: object) -> Dataset:
    """A data set in any transfer syntax."""
    if syntax not in ENCODERS and syntax != RLELossless:
        stored = pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels
        return dicom(stored, syntax=syntax, **tags)
    if syntax == RLELossless:
        dataset = dicom(pixels, **tags)
        dataset.compress(RLELossless)
        return dataset
    dataset = dicom(pixels, syntax=syntax, **tags)
    frames = pixels if tags.get("frames") else [pixels]
    return with_stream(dataset, *(ENCODERS[syntax](frame, tags.get("bits")) for frame in frames))


def with_stream(dataset: Dataset, *streams: bytes) -> Dataset:
    dataset.PixelData = encapsulate(list(streams))
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.promise(STEPS)
def test_eight_bits_are_unchanged_and_deep_grey_equals_the_same_samples_in_png(tmp_path, show):
    np.testing.assert_array_equal(show(dicom(grey())), rgb(grey()))
    np.testing.assert_array_equal(show(dicom(colour(), model="RGB")), colour())
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
def test_the_first_usable_window_is_applied_with_the_edges_of_the_standard(show):
    deep = grey().astype(np.uint16) * 8
    one = show(dicom(deep, WindowCenter="900", WindowWidth="1200"))
    many = dicom(deep, WindowCenter=["5", "900", "50"], WindowWidth=["0", "1200", "70"])
    np.testing.assert_array_equal(show(many), one)
    none = dicom(deep, WindowCenter="100", WindowWidth="0")
    np.testing.assert_array_equal(show(none), show(dicom(deep)))
    # C.11.2.1.3.2: c +- w / 2 are black and white; LINEAR shifts c by 0.5 and w by 1
    stored = np.tile(np.arange(8, 17, dtype=np.int16), (40, 1))
    for function, row in {
        "LINEAR_EXACT": [0, 0, 0, 64, 128, 191, 255, 255, 255],
        "LINEAR": [0, 0, 0, 85, 170, 255, 255, 255, 255],
    }.items():
        array = show(dicom(stored, VOILUTFunction=function, WindowCenter="12", WindowWidth="4"))
        assert array[0, :, 0].tolist() == row, function


@pytest.mark.promise(WINDOWS)
def test_lut_sequences_of_both_stages_are_applied(show):
    stored = (grey() // 16).astype(np.uint16)  # 0..15
    modality = np.arange(16) * 100 + 50
    voi = np.linspace(0, 1, 1600) ** 2 * 4095
    dataset = dicom(stored, ModalityLUTSequence=[lut(modality, 0)])
    dataset.VOILUTSequence = [lut(voi, 10, 12)]
    expected = np.rint(voi.astype(np.uint16)[modality[stored] - 10] / 4095 * 255)
    np.testing.assert_array_equal(show(dataset)[..., 0], expected)


HU = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "bits": 12}
WIDE = {"WindowCenter": "32768", "WindowWidth": "65536"}
RAMP = np.linspace(0, 65535, 2400).astype(np.uint16)
VOI, MODALITY = "VOILUTSequence", "ModalityLUTSequence"
STORED = grey().astype(np.int32) * 4


@pytest.mark.promise(SIGN)
@pytest.mark.parametrize(
    ("name", "stored", "first", "vr", "tags"),
    [
        *((VOI, STORED.astype("u2") + k, 64512, "US", HU) for k in (0, 1024, 1100)),
        *((VOI, STORED.astype("u2") + k, -1024, "SS", HU) for k in (0, 1024)),
        *((MODALITY, (STORED + k).astype("i2"), 64512, "US", WIDE) for k in (-1, 0)),
        (VOI, (STORED * 2 + 40_000).astype("u2"), 40_000, "US", {}),
        (MODALITY, (STORED * 2 + 40_000).astype("u2"), 40_000, "US", WIDE),
    ],
)
def test_the_sign_of_a_first_value_follows_the_possible_values(show, name, stored, first, vr, tags):
    values = stored.astype(int) + int(tags.get("RescaleIntercept", 0))
    index = np.clip(values - (first - 65536 if first == 64512 else first), 0, len(RAMP) - 1)
    expected = np.rint(RAMP[index] / 65535 * 255)
    array = show(dicom(stored, **{name: [lut(RAMP, first, vr=vr)]}, **tags))
    assert np.abs(array[..., 0] - expected).max() <= 1


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("model", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE", ""])
def test_monochrome1_and_the_presentation_lut_shape_invert_once(show, model, shape, deep):
    values = grey().astype(np.uint16) * 9 if deep else grey()
    tags = {"WindowCenter": "1100", "WindowWidth": "2000"} if deep else {}
    plain = show(dicom(values, **tags))
    shown = show(dicom(values, model=model, PresentationLUTShape=shape, **tags))
    inverted = model == "MONOCHROME1" or shape == "INVERSE"
    np.testing.assert_array_equal(shown, 255 - plain if inverted else plain)


@pytest.mark.promise(STEPS)
@pytest.mark.parametrize("model", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_does_not_count_for_the_range_and_is_black(show, model):
    deep = grey().astype(np.int16) * 4
    padded = np.vstack([deep, np.full((30, 56), -2000, np.int16)])
    dataset = dicom(padded, model=model)
    dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000, written unsigned
    arrays = [show(dataset)]
    padded[45:, :] = -1990
    dataset.PixelData = padded.tobytes()
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1980)
    for array in [*arrays, show(dataset)]:
        np.testing.assert_array_equal(array[:40], show(dicom(deep, model=model)))
        assert not array[40:].any()


@pytest.mark.promise(SYNTAXES)
@pytest.mark.parametrize(
    ("name", "subsampling"), [("YBR_FULL", 0), ("YBR_FULL_422", 1), ("RGB", 0)]
)
def test_a_colour_jpeg_is_the_same_inside_dicom_and_outside(tmp_path, show, name, subsampling):
    # some headers say RGB although the stream is YCbCr, as here: no false colours
    Image.fromarray(colour(64, 64)).save(tmp_path / "x.jpg", quality=90, subsampling=subsampling)
    dataset = dicom(colour(64, 64), model=name, syntax=JPEGBaseline8Bit)
    with_stream(dataset, (tmp_path / "x.jpg").read_bytes())
    assert np.abs(show(dataset).astype(int) - read_image(tmp_path / "x.jpg")).max() <= 3
    ybr = np.asarray(Image.fromarray(colour()).convert("YCbCr"))
    assert np.abs(show(dicom(ybr, model="YBR_FULL")).astype(int) - colour()).max() <= 3


@pytest.mark.promise(FRAMES)
@pytest.mark.parametrize("shared", [False, True])
def test_frames_have_their_own_and_shared_functional_groups(tmp_path, show, shared):
    frames = np.stack([grey(seed=s).astype(np.int16) * 8 for s in range(2)])
    rescale = [{"RescaleSlope": str(1 + k), "RescaleIntercept": str(-100 * k)} for k in range(2)]
    windows = [{"WindowCenter": str(1000 + 200 * k), "WindowWidth": "900"} for k in range(2)]
    dataset = dicom(frames, frames=2)
    groups = [elements(PixelValueTransformationSequence=[elements(**r)]) for r in rescale]
    if shared:
        windows[1] = windows[0]
        group = elements(FrameVOILUTSequence=[elements(**windows[0])])
        dataset.SharedFunctionalGroupsSequence = [group]
    else:
        for group, window in zip(groups, windows, strict=True):
            group.FrameVOILUTSequence = [elements(**window)]
    dataset.PerFrameFunctionalGroupsSequence = groups
    path = save_dicom(dataset, tmp_path / "x.dcm")
    assert [f.frame for f in probe(path)] == [0, 1]
    for k in range(2):
        single = show(dicom(frames[k], **windows[k], **rescale[k]))
        assert len(np.unique(single)) > 50
        np.testing.assert_array_equal(read_image(path, k), single)
    with pytest.raises(ImageError, match="no frame 2"):
        read_image(path, 2)


PLAIN = [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
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
        *((s, DEEP, {"bits": 12}) for s in (*PLAIN, *COMPRESSED[:4])),
        *((s, SIGNED, WINDOW) for s in COMPRESSED[:2]),
        *((s, colour(), {"model": "RGB"}) for s in (RLELossless, JPEGLSLossless)),
        *((s, STACK, {"frames": 3}) for s in COMPRESSED[:2]),
    ],
    ids=lambda v: getattr(v, "keyword", None) or str(getattr(v, "dtype", "")) or "-".join(v),
)
def test_every_transfer_syntax_shows_the_image_as_uncompressed(tmp_path, syntax, pixels, tags):
    plain = save_dicom(dicom(pixels, **tags), tmp_path / "a.dcm")
    path = save_dicom(packed(pixels, syntax, **tags), tmp_path / "b.dcm")
    assert probe(path) == probe(plain)
    for info in probe(plain):
        far = np.abs(read_image(path, info.frame).astype(int) - read_image(plain, info.frame))
        assert far.max() <= (8 if syntax == JPEGBaseline8Bit else 0)


@pytest.mark.promise(DAMAGE)
@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_truncated_or_foreign_stream_is_refused(tmp_path, syntax):
    dataset = packed(grey(64, 64), syntax)
    path = save_dicom(dataset, tmp_path / "whole.dcm")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError):
        read_image(path)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    bad = [stream[: len(stream) // 2], b"\0" * len(stream), b"hello"]
    if syntax == RLELossless:  # segments outside the frame or in another order
        for start in (0, 8, 63, len(stream) + 1, 2**31 - 8):
            bad.append(stream[:4] + struct.pack("<I", start) + stream[8:])
    for content in bad:
        with pytest.raises(ImageError):
            read_image(save_dicom(with_stream(dataset, content), path))


@pytest.mark.promise(DAMAGE)
def test_pixel_data_that_does_not_fit_the_header_is_refused(tmp_path):
    other_size = packed(grey(64, 64), JPEG2000Lossless)
    other_size.Rows = 32
    short = dicom(grey())
    short.PixelData = short.PixelData[:-100]
    many = dicom(grey(), NumberOfFrames=2**31 - 1)
    floats = dicom(grey())
    del floats.PixelData
    floats.FloatPixelData = grey().astype(np.float32).tobytes()
    unknown = with_stream(dicom(grey(), syntax="1.2.840.10008.1.2.4.100"), b"\0" * 100)
    for dataset, words in (
        (other_size, "64 x 32"), (short, "truncated"), (many, "truncated"),
        (floats, "float pixels"), (unknown, "MPEG2"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=words):
            read_image(save_dicom(dataset, tmp_path / "x.dcm"))


@pytest.mark.promise("DICOM files without preamble or suffix are read.")
def test_files_without_preamble_or_suffix_are_read(tmp_path):
    buffer = io.BytesIO()
    dataset = dicom(grey(), syntax=ImplicitVRLittleEndian)
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[128:132] != b"DICM"
    (tmp_path / "IM0001").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "IM0001"), rgb(grey()))


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


def colours(entries: int, bits: int = 8) -> np.ndarray:
    """(entries, 3): a different colour for each index, as far as the bits allow."""
    i = np.arange(entries)
    table = np.stack([i % 251, i // 251 % 256, 255 - i % 256], axis=1).astype(np.uint16)
    return table if bits == 8 else table * 257


def with_tables(
    index: np.ndarray,
    tables: np.ndarray,
    descriptor: list[int],
    *,
    syntax: str = ExplicitVRLittleEndian,
    **tags: object,
) -> Dataset:
    """Palette DICOM of (n, 3) entries; descriptor: entries, first index, bits."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stored = index.astype(index.dtype.newbyteorder(order))
    dataset = dicom(stored, model="PALETTE COLOR", syntax=syntax, **tags)
    for c, name in enumerate(COLOURS):
        sign = "SS" if index.dtype.kind == "i" else "US"
        dataset.add_new(f"{name}{PALETTE}Descriptor", sign, descriptor)
        raw = tables[:, c].astype("<u2" if descriptor[2] == 16 else np.uint8).tobytes()
        raw = np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2").astype(f"{order}u2").tobytes()
        dataset.add_new(f"{name}{PALETTE}Data", "OW", raw)
    return dataset


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, *PLAIN[::2]])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_any_length_and_depth_shows_its_colours(show, bits, syntax):
    for entries in (1, 2, 5, 255, 256, 257, 65_535, 65_536):
        index = np.linspace(0, entries - 1, 40 * 56).astype(np.uint16).reshape(40, 56)
        descriptor = [entries % 2**16, 0, bits]
        dataset = with_tables(index, colours(entries, bits), descriptor, syntax=syntax)
        np.testing.assert_array_equal(show(dataset), colours(entries)[index])


@pytest.mark.promise(PALETTES)
def test_the_depth_of_a_palette_is_that_of_the_table_not_of_a_frame(show):
    index = np.stack([grey() // 128, grey() // 64])  # the first frame uses dark entries only
    table = rgb(np.array([[0, 200, 40000, 65535]]))[0]
    dataset = with_tables(index, table, [4, 0, 16], frames=2)
    for frame in (0, 1):
        expected = (table >> 8).astype(np.uint8)[index[frame]]
        np.testing.assert_array_equal(show(dataset, frame), expected)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("descriptor", [[300, 0, 8], [0, 0, 8], [256, 0, 16], [256, 0, 12], []])
def test_a_damaged_or_segmented_palette_is_refused(show, descriptor):
    dataset = with_tables(grey(), colours(200), descriptor or [200, 0, 8])
    for name in COLOURS:
        if descriptor:
            dataset[f"{name}{PALETTE}Data"].value = bytes(200)
        else:  # the entries are in another element
            del dataset[f"{name}{PALETTE}Data"]
    with pytest.raises(ImageError, match="palette"):
        show(dataset)


def of_patient(path: Path, patient: str, issuer: str = "", seed: int = 0) -> Path:
    tags = {"IssuerOfPatientID": issuer} if issuer else {}
    return save_dicom(dicom(grey(seed=seed), patient=patient, **tags), path)


@pytest.mark.promise(GROUPED)
def test_files_of_a_patient_have_one_code_which_does_not_contain_the_id(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    files = [of_patient(tmp_path / f"{k}", "HOSP-00421-own", seed=k) for k in range(4)]
    (code,) = {patient_code(file) for file in files}
    assert code[0] == "p" and len(code) == 17 and "421" not in code and "HOSP" not in code
    assert sorted(tmp_path.iterdir()) == files  # nothing is written
    assert patient_code(of_patient(tmp_path / "other", "HOSP-00422")) != code
    assert patient_code(of_patient(tmp_path / "nameless", "")).startswith("p")  # by study
    Image.fromarray(grey()).save(tmp_path / "x.png")
    assert patient_code(tmp_path / "x.png") == ""


@pytest.mark.promise(GROUPED)
@pytest.mark.parametrize("key", ["", "our secret"])
def test_the_same_number_of_two_hospitals_is_two_patients(tmp_path, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    issuers = ["", "North", "South", "North"]
    codes = [patient_code(of_patient(tmp_path / f"{k}", "0042", i)) for k, i in enumerate(issuers)]
    assert codes[1] == codes[3] and len(set(codes)) == 3


@pytest.mark.promise("Guessing a patient id takes the secret key, or milliseconds per guess.")
def test_without_a_key_each_guess_costs_milliseconds_and_with_one_it_needs_the_key(
    tmp_path, monkeypatch
):
    monkeypatch.delenv(KEY, raising=False)
    files = [of_patient(tmp_path / f"{k}", f"guess {k}") for k in range(5)]
    start = time.process_time()
    slow = {patient_code(file) for file in files}
    assert time.process_time() - start > 5 * 0.005  # BLAKE2b takes a microsecond
    keyed = []
    for key in ("one", "two", "one"):
        monkeypatch.setenv(KEY, key)
        keyed.append(patient_code(files[0]))
    assert len(slow) == 5 and keyed[0] == keyed[2] != keyed[1] and not slow & set(keyed)


KINDS = (
    "DICOM segmentations, dose grids, maps, reports, localizers and the labels of slides are "
    "counted by kind, and are no images."
)
STORAGE = "1.2.840.10008.5.1.4.1.1."
OTHERS = {
    "segmentation": ("66.4", []),
    "label map": ("66.7", []),
    "dose grid": ("481.2", []),
    "parametric map": ("30", []),
    "presentation state": ("11.1", []),
    "dose report": ("88.67", []),
    "scout": ("2", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "enhanced scout": ("2.1", ["DERIVED", "PRIMARY", "LOCALIZER", "NONE"]),
    "screen": ("7", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    "slide label": ("77.1.6", ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]),
    "slide level": ("77.1.6", ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]),
}
IMAGES = {
    "slice": ("2", ["ORIGINAL", "PRIMARY", "AXIAL"]),
    "resampled slice": ("2", ["DERIVED", "PRIMARY", "AXIAL", "RESAMPLED"]),
    "film": ("7", ["DERIVED", "SECONDARY"]),
    "portal image": ("481.1", []),
}


@pytest.mark.promise(KINDS)
@pytest.mark.parametrize("name", [*OTHERS, *IMAGES])
def test_what_is_no_image_is_told_by_its_class_and_type(tmp_path, name):
    kind, types = (OTHERS | IMAGES)[name]
    dataset = dicom(grey(), ImageType=types)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = STORAGE + kind
    path = save_dicom(dataset, tmp_path / "x.dcm")
    if name in IMAGES:
        assert len(probe(path)) == 1
    else:
        with pytest.raises(SkippedFile):
            probe(path)
    read_mask(save_dicom(dicom((grey() > 99).astype(np.uint8), SOPClassUID=STORAGE + kind), path))


@pytest.mark.promise(KINDS)
@pytest.mark.parametrize("modality", ["US", "CR", "XC", "CT", "OT"])
@pytest.mark.parametrize(
    "types", [["DERIVED", "SECONDARY"], ["DERIVED", "SECONDARY", "SCREEN SAVE"]]
)
def test_screens_of_ultrasound_and_films_are_images(tmp_path, modality, types):
    path = save_dicom(dicom(grey(), Modality=modality, ImageType=types), tmp_path / "x.dcm")
    reported = modality in ("CT", "OT")
    assert dicom_capture(path) == ("secondary" if reported else "")
    if reported and types[2:]:
        with pytest.raises(SkippedFile):
            probe(path)
    else:
        assert len(probe(path)) == 1


@pytest.mark.promise("A transfer syntax that cannot be read is named with what helps.")
@pytest.mark.parametrize(
    ("syntax", "helps"),
    {
        "1.2.840.113619.5.2": "gdcmconv",
        "1.3.46.670589.33.1.4.1": "gdcmconv",
        "1.2.840.10008.1.2.4.102": "ffmpeg",
        "1.2.840.10008.1.2.4.110": "imagecodecs",
        "1.2.840.10008.1.2.4.94": "server",
        "1.2.840.10008.1.2.8.1": "gdcmconv",
        "1.2.3.4": "gdcmconv",
    }.items(),
)
@pytest.mark.parametrize("short", [False, True])
def test_an_unsupported_transfer_syntax_is_named_and_not_called_damaged(
    tmp_path, syntax, helps, short
):
    private = syntax.replace("10008", "99999")  # pydicom writes no public one that it does not know
    dataset = with_stream(dicom(grey()), b"\1\2" * (3 if short else 9999))
    dataset.file_meta.TransferSyntaxUID = private
    path = tmp_path / "x.dcm"
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    path.write_bytes(path.read_bytes().replace(private.encode(), syntax.encode()))
    for read in (probe, read_image):
        with pytest.raises(ImageError) as error:
            read(path)
        text = str(error.value)
        assert syntax in text and helps in error.value.remedy
        assert "truncated" not in text and "damaged" not in text


@pytest.mark.promise(SYNTAXES)
@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless])
def test_bytes_after_the_end_of_a_frame_are_no_damage(show, syntax):
    stream = ENCODERS[syntax](grey(), 8)
    plain = with_stream(dicom(grey(), syntax=syntax), stream)
    padded = with_stream(dicom(grey(), syntax=syntax), stream + b"\1" * 40)
    np.testing.assert_array_equal(show(padded), show(plain))


@pytest.mark.promise("All slices of a CT without a window are shown with one range.")
def test_ct_without_a_window_has_one_range_and_others_their_own(tmp_path):
    ct = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    air = np.random.default_rng(0).normal(24, 8, (40, 56)).clip(0, 90).astype(np.uint16)
    body = air.copy()
    body[10:30, 10:40] = 1064
    shown = {}
    for name, stored, tags in (
        ("air", air, ct),
        ("body", body, ct),
        ("mr", air, {"Modality": "MR"}),
        ("windowed", body, ct | {"WindowCenter": "40", "WindowWidth": "400"}),
    ):
        path = save_dicom(dicom(stored, bits=12, **tags), tmp_path / f"{name}.dcm")
        shown[name] = read_image(path)[..., 0]
        shown[f"{name} given"] = read_image(path, window=(40, 400))[..., 0]
    assert shown["air"].max() < 16 and set(shown["body"][12:28, 12:38].flat) == {133}
    assert shown["mr"].max() == 255 and (shown["mr"] == shown["mr given"]).all()
    np.testing.assert_array_equal(shown["windowed"], shown["windowed given"])
    assert not shown["air given"].any() and set(shown["body given"][12:28, 12:38].flat) == {128}


@pytest.mark.promise(FRAMES)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_frames_with_maps_of_their_own_are_compared_by_their_values(show, dtype):
    slopes = [{"RescaleSlope": slope, "RescaleIntercept": "0"} for slope in ("1", "0.1")]
    dataset = dicom(np.stack([grey().astype(dtype) * 16] * 2), frames=2, Modality="PT")
    groups = [elements(PixelValueTransformationSequence=[elements(**one)]) for one in slopes]
    dataset.PerFrameFunctionalGroupsSequence = groups
    hot, cold = show(dataset, 0), show(dataset, 1)
    assert hot.max() == 255 and cold.max() < 30
