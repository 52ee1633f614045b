"""The intact files that the fuzzer of the image reader mutates: several kinds of each format."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

FORMATS = [
    "PNG", "PNG, CRC valid", "JPEG", "TIFF", "BMP", "WebP", "GIF", "NIfTI", "DICOM", "DICOM RLE",
    "DICOM JPEG", "DICOM JPEG lossless", "DICOM JPEG-LS", "DICOM JPEG 2000",
]  # fmt: skip
VALID_CRC = "PNG, CRC valid"  # checksums are corrected after mutation
STREAMS = {
    "DICOM RLE": (RLELossless, None),
    "DICOM JPEG": (JPEGBaseline8Bit, lambda a: imagecodecs.jpeg8_encode(a, level=90)),
    "DICOM JPEG lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
    "DICOM JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "DICOM JPEG 2000": (
        JPEG2000Lossless,
        lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0),
    ),
}


def make_seeds(folder: Path) -> dict[str, list[bytes]]:
    """Return the intact files by format; `folder` is for what only writes to disk."""
    y, x = np.mgrid[0:36, 0:52]
    grey = ((np.sin(x / 5) + np.cos(y / 7) + 2) * 60).astype(np.uint8)
    rgb = np.stack([grey, grey.T[:36].repeat(2, 1)[:, :52], 255 - grey], axis=-1)
    deep = grey.astype(np.uint16) * 16
    seeds = {
        "PNG": _pngs(grey, rgb, deep),
        "JPEG": _jpegs(grey, rgb),
        "TIFF": _tiffs(grey, rgb, deep),
        "BMP": [_pillow(v, "BMP") for v in (grey, rgb, grey > 99)]
        + [_pillow(Image.fromarray(rgb).convert("P"), "BMP")],
        "WebP": [
            _pillow(rgb, "WEBP", quality=80),
            _pillow(rgb, "WEBP", lossless=True),
            _pillow(Image.fromarray(np.dstack([rgb, grey])), "WEBP", exif=_exif(6)),
        ],
        "GIF": [_pillow(grey, "GIF"), _pillow(rgb, "GIF", transparency=3)],
        "NIfTI": _niftis(grey, deep, folder),
        "DICOM": _dicoms(grey, rgb, deep),
    }
    seeds[VALID_CRC] = seeds["PNG"]
    for name, (syntax, encode) in STREAMS.items():
        seeds[name] = [_dicom(grey, syntax=syntax, encode=encode)]
        if name != "DICOM JPEG":
            seeds[name].append(_dicom(deep, bits=12, syntax=syntax, encode=encode))
        if name in ("DICOM JPEG", "DICOM RLE", "DICOM JPEG 2000"):
            seeds[name].append(_dicom(rgb, model="RGB", syntax=syntax, encode=encode))
    return {name: seeds[name] for name in FORMATS}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[270] = orientation, "described"
    return exif


def _pillow(values: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pngs(grey: np.ndarray, rgb: np.ndarray, deep: np.ndarray) -> list[bytes]:
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    return [
        _pillow(grey, "PNG"),
        _pillow(rgb, "PNG", exif=_exif(5)),
        _pillow(np.dstack([rgb, grey]), "PNG"),
        _pillow(palette, "PNG", transparency=b"\0\x80\xff"),
        _pillow(grey > 99, "PNG"),
        imagecodecs.png_encode(deep),
        imagecodecs.png_encode(np.dstack([deep] * 3)),
    ]


def _jpegs(grey: np.ndarray, rgb: np.ndarray) -> list[bytes]:
    return [
        _pillow(grey, "JPEG"),
        _pillow(rgb, "JPEG", exif=_exif(6)),
        _pillow(rgb, "JPEG", progressive=True, quality=95),
        _pillow(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
    ]


def _tiffs(grey: np.ndarray, rgb: np.ndarray, deep: np.ndarray) -> list[bytes]:
    files = []
    for values, options in (
        (grey, {}),
        (deep, {"byteorder": ">", "compression": "zlib", "predictor": True}),
        (rgb, {"photometric": "rgb", "compression": "lzw"}),
        (rgb, {"photometric": "rgb", "compression": "jpeg", "tile": (16, 16)}),
        (np.moveaxis(rgb, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (deep.astype(np.float32), {"compression": "packbits"}),
        (np.stack([grey] * 3), {"photometric": "minisblack"}),
        (rgb, {"photometric": "rgb", "compression": "zstd", "bigtiff": True}),
        (rgb, {"photometric": "rgb", "compression": "jpeg2000"}),
        (grey > 99, {}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **options)
        files.append(buffer.getvalue())
    files.append(_pillow(Image.fromarray(rgb).convert("YCbCr"), "TIFF"))
    files.append(_pillow(Image.fromarray(rgb).convert("P"), "TIFF"))
    return files


def _niftis(grey: np.ndarray, deep: np.ndarray, folder: Path) -> list[bytes]:
    files = []
    volume = np.stack([deep, deep // 2, deep // 3], axis=2).astype(np.int16)
    affine = np.array([[0, -0.9, 0, 3], [0, 0, 2, 1], [0.8, 0, 0, 2], [0, 0, 0, 1]])
    for values, name, kind in (
        (grey, "a.nii", nib.Nifti1Image),
        (volume, "b.nii", nib.Nifti1Image),
        (volume, "c.nii.gz", nib.Nifti1Image),
        (volume.astype(np.float32), "d.nii", nib.Nifti2Image),
    ):
        kind(values, affine).to_filename(folder / name)
        files.append((folder / name).read_bytes())
    return files


def _dicom(
    values: np.ndarray,
    *,
    bits: int = 0,
    model: str = "MONOCHROME2",
    syntax: str = ExplicitVRLittleEndian,
    encode=None,
    **tags,
) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if not encode else syntax
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "HOSP-00421"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = model
    dataset.BitsAllocated = values.dtype.itemsize * 8
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate([encode(values)]) if encode else values.tobytes()
    dataset["PixelData"].VR = "OB" if encode or values.dtype.itemsize == 1 else "OW"
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    elif not encode:
        dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicoms(grey: np.ndarray, rgb: np.ndarray, deep: np.ndarray) -> list[bytes]:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 12])
    lut.add_new("LUTData", "OW", (np.arange(256) * 16).astype("<u2").tobytes())
    window = {"WindowCenter": ["0", "900.5"], "WindowWidth": ["0", "700"]}
    palette = {}
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        palette[f"{name}Descriptor"] = [256, 0, 16]
        palette[f"{name}Data"] = (np.arange(256) * 257).astype("<u2").tobytes()
    padding = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 5}
    return [
        _dicom(grey),
        _dicom(deep, bits=12, RescaleSlope="2", RescaleIntercept="-1024", **window),
        _dicom(deep, bits=12, model="MONOCHROME1", syntax=ImplicitVRLittleEndian, **padding),
        _dicom(grey, VOILUTSequence=[lut], ModalityLUTSequence=[lut]),
        _dicom(rgb, model="YBR_FULL"),
        _dicom(grey, model="PALETTE COLOR", **palette),
        _dicom(deep, syntax=DeflatedExplicitVRLittleEndian, bits=12, NumberOfFrames=1),
    ]
