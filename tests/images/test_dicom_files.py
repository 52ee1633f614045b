"""DICOM as files: every syntax and compression, no damage shown as black, no names told."""

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

# Outside of tests the reader silences these; pytest turns all warnings on again.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.pixels.decoders.base"),
]


def compressed(pixels, syntax, **tags) -> Dataset:
    dataset = dicom(pixels, syntax=syntax, **tags)
    if syntax == RLELossless:
        plain = dicom(pixels, **tags)
        plain.compress(RLELossless)
        return plain
    frames = pixels if tags.get("frames") else [pixels]
    dataset.PixelData = encapsulate([ENCODERS[syntax](frame, tags.get("bits")) for frame in frames])
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_transfer_syntaxes_without_compression_show_the_same_picture(tmp_path, syntax):
    deep = grey().astype(np.uint16) * 14
    first = read_image(save_dicom(dicom(deep, bits=12), tmp_path / "a.dcm"))
    if syntax == ExplicitVRBigEndian:
        dataset = dicom(deep.byteswap(), bits=12, syntax=syntax)
    else:
        dataset = dicom(deep, bits=12, syntax=syntax)
    np.testing.assert_array_equal(read_image(save_dicom(dataset, tmp_path / "b.dcm")), first)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGBaseline8Bit]
)
def test_every_compression_shows_the_picture(tmp_path, syntax):
    array = read_image(save_dicom(compressed(grey(), syntax), tmp_path / "x.dcm"))
    limit = 8 if syntax == JPEGBaseline8Bit else 0
    assert np.abs(array.astype(int) - rgb(grey())).max() <= limit


DEEP = grey().astype(np.uint16) * 16 + 7  # 12 bits
SIGNED = DEEP.astype(np.int16) * 7 - 14_000
FRAMES = np.stack([grey(seed=s) for s in range(3)])
WINDOW = {"WindowCenter": "-1000", "WindowWidth": "20000"}


@pytest.mark.parametrize(
    ("syntax", "pixels", "tags"),
    [
        *((s, DEEP, {"bits": 12}) for s in (RLELossless, JPEG2000Lossless)),
        *((s, DEEP, {"bits": 12}) for s in (JPEGLSLossless, JPEGLosslessSV1)),
        *((s, SIGNED, WINDOW) for s in (RLELossless, JPEG2000Lossless)),
        *((s, colour(), {"model": "RGB"}) for s in (RLELossless, JPEGLSLossless)),
        *((s, FRAMES, {"frames": 3}) for s in (RLELossless, JPEG2000Lossless)),
    ],
    ids=lambda v: getattr(v, "keyword", None) or str(getattr(v, "dtype", "")) or "-".join(v),
)
def test_deep_signed_coloured_and_many_frames_show_as_uncompressed(tmp_path, syntax, pixels, tags):
    plain = save_dicom(dicom(pixels, **tags), tmp_path / "a.dcm")
    packed = save_dicom(compressed(pixels, syntax, **tags), tmp_path / "b.dcm")
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == syntax
    assert probe(packed) == probe(plain)
    shown = [read_image(plain, f.frame) for f in probe(plain)]
    assert len({array.tobytes() for array in shown}) == max(1, tags.get("frames", 0))
    for frame, array in enumerate(shown):
        np.testing.assert_array_equal(read_image(packed, frame), array)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGBaseline8Bit]
)
def test_a_cut_or_foreign_stream_is_a_failure_and_never_a_black_row(tmp_path, syntax):
    dataset = compressed(grey(64, 64), syntax)
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


def test_rle_segments_outside_the_frame_are_refused_and_end_no_process(tmp_path):
    dataset = compressed(grey().astype(np.uint16) * 257, RLELossless)
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    first, second = struct.unpack("<2I", stream[4:12])
    for k, starts in enumerate(
        [(first, 2**31 - 8), (2**31 - 8, second), (second, first), (first, first), (8, second)]
    ):
        dataset.PixelData = encapsulate([stream[:4] + struct.pack("<2I", *starts) + stream[12:]])
        save_dicom(dataset, tmp_path / f"{k}.dcm")
    # In a process of its own: the decoder would read anywhere, and take all tests with it.
    code = (
        "import sys; from pipeline.errors import ImageError; from pipeline.images import read_image"
        "\nfor path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except ImageError: print('refused')\n"
    )
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n" * 5), done.stderr


def test_a_stream_of_another_size_than_the_header_is_refused(tmp_path):
    dataset = compressed(grey(64, 64), JPEG2000Lossless)
    dataset.Rows = 32
    with pytest.raises(ImageError, match="64 x 32"):
        read_image(save_dicom(dataset, tmp_path / "x.dcm"))


def test_cut_native_pixels_are_a_failure_for_probe_and_read(tmp_path):
    dataset = dicom(grey())
    dataset.PixelData = dataset.PixelData[:-100]
    path = save_dicom(dataset, tmp_path / "x.dcm")
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="truncated"):
            read(path)


def test_an_absurd_number_of_frames_is_refused_at_once(tmp_path):
    path = save_dicom(dicom(grey(), NumberOfFrames=2**31 - 1), tmp_path / "x.dcm")
    with pytest.raises(ImageError, match="truncated"):
        probe(path)


def test_files_without_preamble_or_suffix_are_read(tmp_path):
    dataset = dicom(grey(), syntax=ImplicitVRLittleEndian)
    path = tmp_path / "IM0001"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=True, little_endian=True)
    raw = buffer.getvalue()
    path.write_bytes(raw)
    assert raw[128:132] != b"DICM"
    np.testing.assert_array_equal(read_image(path), rgb(grey()))


def test_dicomdir_and_objects_without_pixels_are_skipped_by_reason(tmp_path):
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


def test_an_unread_compression_is_named(tmp_path):
    dataset = dicom(grey(), syntax="1.2.840.10008.1.2.4.100")
    dataset.PixelData = encapsulate([b"\0" * 100])
    with pytest.raises(ImageError, match="MPEG2"):
        read_image(save_dicom(dataset, tmp_path / "x.dcm"))


def test_no_name_id_or_date_appears_in_errors_warnings_or_logs(tmp_path, caplog, recwarn):
    secrets = (NAME, "Doe", PATIENT, BIRTH)
    path = save_dicom(dicom(grey()), tmp_path / "x.dcm")
    data = path.read_bytes()
    seen = []
    with caplog.at_level(logging.DEBUG):
        for cut in range(0, len(data), 37):  # broken headers make parsers quote what they met
            path.write_bytes(data[:cut] + b"\xff" * 4 + data[cut + 4 :])
            for read in (probe, read_image, patient_code):
                try:
                    seen.append(str(read(path))[:500])
                except ImageError as error:
                    seen += [str(error), repr(error), str(error.__cause__)]
    seen += [r.getMessage() for r in caplog.records] + [str(w.message) for w in recwarn.list]
    assert not [text for text in seen if any(s in text for s in secrets)]
    assert any("truncated" in text or "damaged" in text for text in seen)


def test_patient_code_groups_patients_one_way_and_follows_the_key(tmp_path, monkeypatch):
    monkeypatch.delenv("PIPELINE_PATIENT_KEY", raising=False)
    a = patient_code(save_dicom(dicom(grey()), tmp_path / "a.dcm"))
    b = patient_code(save_dicom(dicom(grey(seed=3)), tmp_path / "b.dcm"))
    other = patient_code(save_dicom(dicom(grey(), patient="HOSP-00422"), tmp_path / "c.dcm"))
    assert a == b != other and a.startswith("p") and len(a) == 17
    assert not any(part in a for part in ("421", PATIENT))
    monkeypatch.setenv("PIPELINE_PATIENT_KEY", "our secret")
    assert patient_code(tmp_path / "a.dcm") not in (a, "")
    nameless = save_dicom(dicom(grey(), patient=""), tmp_path / "d.dcm")
    assert patient_code(nameless).startswith("p")  # by study
    Image.fromarray(grey()).save(tmp_path / "x.png")
    assert patient_code(tmp_path / "x.png") == ""
