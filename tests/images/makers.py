"""Pictures and files that the image tests make themselves."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

LPS = np.diag([-1.0, -1, 1, 1])  # shows voxels (x, y) as the picture [y, x]
NAME, PATIENT, BIRTH = "Doe^Jane", "HOSP-00421", "19481231"


def grey(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """A smooth, asymmetric 8-bit picture that uses 0 to 255."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).normal(0, 6, (height, width))
    wave = 90 * np.sin(x / 9) + 1.6 * y + x + noise
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    return np.rint(wave * 255).astype(np.uint8)


def colour(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth RGB picture."""
    return np.stack([grey(height, width, s) // (1 + s) for s in range(3)], axis=-1)


def rgb(values: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3)."""
    return np.repeat(values[..., None], 3, axis=2)


def turned(orientation: int) -> Image.Exif:
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def encoded(values: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A file of a format of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def dicom(
    pixels: np.ndarray,
    *,
    bits: int | None = None,
    model: str = "MONOCHROME2",
    syntax: str = ExplicitVRLittleEndian,
    frames: int = 0,
    patient: str = PATIENT,
    **tags: Any,
) -> Dataset:
    """A secondary capture of (h, w), (h, w, 3) or (frames, ...), with identifying header values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, patient, BIRTH
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient])
    shape = pixels.shape[1:] if frames else pixels.shape
    allocated = pixels.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    dataset.PhotometricInterpretation = model
    dataset.BitsAllocated, dataset.BitsStored = allocated, bits or allocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if len(shape) == 3:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    raw = pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def lut(table: np.ndarray, first: int, bits: int = 16, vr: str = "US") -> Dataset:
    """An item of a LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(table), first, bits])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


def save_dicom(dataset: Dataset, path: Path) -> Path:
    """Write with preamble and file meta information."""
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_nifti(values: np.ndarray, path: Path, affine: np.ndarray | None = None) -> Path:
    """Write voxels; the default affine is RAS."""
    nib.Nifti1Image(values, np.eye(4) if affine is None else affine).to_filename(path)
    return path


# Encoders of one frame, by transfer syntax: called with samples and bits stored.
ENCODERS = {
    JPEG2000Lossless: lambda a, bits: imagecodecs.jpeg2k_encode(
        a, codecformat="j2k", level=0, bitspersample=bits
    ),
    JPEGLSLossless: lambda a, bits: imagecodecs.jpegls_encode(a),
    JPEGLosslessSV1: lambda a, bits: imagecodecs.ljpeg_encode(a, bitspersample=bits),
    JPEGBaseline8Bit: lambda a, bits: imagecodecs.jpeg8_encode(a, level=95),
}
