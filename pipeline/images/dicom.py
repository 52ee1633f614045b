"""DICOM through pydicom: the header, the frames and their stored samples.

The order of steps is that of PS3.3 C.11 and PS3.4 N.2: stored values, padding removed, modality
LUT, VOI LUT or window, one inversion for MONOCHROME1 (`pipeline.images.dicom_values`). Overlays,
shutters and presentation states are not applied. Only the elements listed here are parsed, so no
name, id or date is in memory while pixels are read.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import ImageError
from pipeline.images import rle_plugin
from pipeline.images.dicom_values import (
    PADDING_TAGS,
    PALETTE_TAGS,
    apply_modality,
    apply_palette,
    apply_voi,
    not_padding,
    value_range,
)
from pipeline.images.types import DICOMDIR_REASON, FrameInfo, Pixels, SkippedFile, check_size

# pydicom quotes header values in its warnings and log lines, and neither may reach a log.
warnings.filterwarnings("ignore", module=r"pydicom\.")
warnings.filterwarnings("ignore", module=r"pylibjpeg")
for _name in ("pydicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
get_decoder(RLELossless).add_plugin(rle_plugin.NAME, (rle_plugin.__name__, "decode_frame"))

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS = [
    "SOPClassUID", "DirectoryRecordSequence", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *PADDING_TAGS, *PALETTE_TAGS, *PIXELS,
]  # fmt: skip
MAX_DEFLATED = 2**30  # bytes
DICOMDIR = "1.2.840.10008.1.3.10"
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # F7: JPEG-LS
_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000


def probe_dicom(data: bytes, kind: str) -> list[FrameInfo]:
    """List the frames, from the header."""
    rows, columns, frames = _geometry(load_dataset(data))
    return [FrameInfo(index, columns, rows) for index in range(frames)]


def read_dicom(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one frame and apply the grey-scale or colour pipeline.

    Args:
        data: content of the file.
        kind: "DICOM".
        frame: 0-based.

    Returns:
        Values (h, w) grey or (h, w, 3) colour. uint8 if they are display values (windowed, 8 bits
        or a palette), otherwise the stored integers, or float64 after the modality LUT.

    Raises:
        ImageError: no such frame, truncated, too large, unknown compression or colour model.
        SkippedFile: a DICOMDIR, or an object without pixels.
        Exception: of the decoder, on damaged data; `read_image` converts it to an ImageError.
    """
    dataset = load_dataset(data)
    rows, columns, frames = _geometry(dataset)
    if not 0 <= frame < frames:
        raise ImageError(f"has no frame {frame} (it has {frames})", remedy="frames are 0-based")
    stored = _stored(dataset, frame, frames)
    if stored.shape[:2] != (rows, columns):
        raise ImageError("is damaged (frame size)", remedy="export it again")
    if stored.ndim == 3:
        if stored.shape[2] != 3:
            raise ImageError(
                f"has {stored.shape[2]} channels", remedy="export it as MONOCHROME2 or RGB"
            )
        return Pixels(stored, display=stored.dtype == np.uint8)
    model = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if model == "PALETTE COLOR":
        rgb = apply_palette(_used_bits(stored, dataset)[0], dataset)
        return Pixels(rgb, display=True, threshold="nonzero")
    if model not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError("has an unknown colour model", remedy="export it as MONOCHROME2 or RGB")
    return _grey(stored, dataset, frame, invert=model == "MONOCHROME1")


def load_dataset(data: bytes, tags: list[str] | None = None) -> Dataset:
    """Parse the elements that reading pixels needs, or those of `tags`.

    Raises:
        SkippedFile: a DICOMDIR, or an object without pixels.
    """
    _check_deflated(data)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=tags or _TAGS)
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        meta.TransferSyntaxUID = UID(
            f"1.2.840.10008.1.2{'' if implicit else '.1' if little else '.2'}"
        )
    if tags is not None:
        return dataset
    storage = str(meta.get("MediaStorageSOPClassUID", dataset.get("SOPClassUID", "")))
    if storage == DICOMDIR or "DirectoryRecordSequence" in dataset:
        raise SkippedFile(DICOMDIR_REASON)
    if not any(name in dataset for name in PIXELS):
        if "Rows" in dataset and "BitsAllocated" in dataset:
            raise ImageError(
                "describes pixels but has none: it is truncated", remedy="copy it again"
            )
        raise SkippedFile("a DICOM object without pixels (report, plan or presentation state)")
    return dataset


def _check_deflated(data: bytes) -> None:
    """Limit the size of a deflated file before pydicom inflates it in one piece."""
    if str(DeflatedExplicitVRLittleEndian).encode() not in data[:2048]:
        return
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    while rest and not inflater.eof:
        total += len(inflater.decompress(rest, 2**22))
        rest = inflater.unconsumed_tail
        if total > MAX_DEFLATED:
            raise ImageError("inflates to more than 1 GiB", remedy="store it without deflation")


def _geometry(dataset: Dataset) -> tuple[int, int, int]:
    """Return rows, columns and number of frames; there is enough pixel data for them."""
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size(columns, rows)
    pixels = next(dataset[name].value for name in PIXELS if name in dataset)
    bits = rows * columns * frames * int(dataset.get("SamplesPerPixel") or 1)
    bits *= int(dataset.get("BitsAllocated") or 8)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    # An encapsulated frame has an item header of 8 bytes at least.
    needed = 8 * frames if _encapsulated(dataset) else bits // 8
    if frames < 1 or pixels is None or len(pixels) < needed:
        raise ImageError(
            f"is truncated: {frames} frames of {columns} x {rows} need more pixel data",
            remedy="copy or export it again",
        )
    return rows, columns, frames


def _encapsulated(dataset: Dataset) -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    return syntax.is_transfer_syntax and not syntax.is_private and syntax.is_encapsulated


def _stored(dataset: Dataset, frame: int, frames: int) -> np.ndarray:
    """Decode one frame, unused high bits included (a padding value may be in them)."""
    syntax, size = dataset.file_meta.TransferSyntaxUID, dataset.Rows * dataset.Columns
    if _encapsulated(dataset):
        _check_codestream(_encoded_frame(dataset, frame, frames), syntax, dataset)
    elif dataset.get("BitsAllocated") == 1 and size % 8:
        # Frames of 1 bit follow without a gap: one may start within a byte.
        first, skip = divmod(frame * size, 8)
        raw = np.frombuffer(dataset.PixelData, np.uint8)[first : first + size // 8 + 2]
        bits = np.unpackbits(raw, bitorder="little")[skip : skip + size]
        return bits.reshape(dataset.Rows, dataset.Columns)
    plugin = rle_plugin.NAME if syntax == RLELossless else ""
    return pixel_array(dataset, index=frame, correct_unused_bits=False, decoding_plugin=plugin)


def _encoded_frame(dataset: Dataset, frame: int, frames: int) -> bytes:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"uses a compression that is not supported ({syntax.name})",
            remedy="decompress it first, e.g. with `dcmdjpeg` or `gdcmconv --raw`",
        ) from None
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    return pydicom.encaps.get_frame(
        dataset.PixelData, frame, number_of_frames=frames, extended_offsets=offsets
    )


def _check_codestream(stream: bytes, syntax: UID, dataset: Dataset) -> None:
    """Refuse a compressed frame that is truncated or not of the header's size.

    Decoders of JPEG and JPEG 2000 silently fill the missing part with grey or black, and take the
    size from the stream.
    """
    if syntax == RLELossless:
        return  # `rle_plugin` checks the lengths
    if _END not in stream.rstrip(b"\0")[-16:]:
        raise ImageError("has a truncated compressed frame", remedy="copy or export it again")
    size = _jpeg2000_size(stream) if stream[:4] == b"\xff\x4f\xff\x51" else _jpeg_size(stream)
    if size != (dataset.Rows, dataset.Columns):
        raise ImageError(
            f"is {dataset.Columns} x {dataset.Rows} by its header, but not by its compressed frame",
            remedy="export it again",
        )


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    offset = 2
    while stream[:2] == b"\xff\xd8" and offset + 9 <= len(stream):
        if stream[offset] != 0xFF:
            return None
        marker = stream[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker in _START_OF_FRAME:
            height = int.from_bytes(stream[offset + 5 : offset + 7], "big")
            return height, int.from_bytes(stream[offset + 7 : offset + 9], "big")
        offset += 2 + int.from_bytes(stream[offset + 2 : offset + 4], "big")
    return None


def _jpeg2000_size(stream: bytes) -> tuple[int, int]:
    right, bottom, left, top = (
        int.from_bytes(stream[8 + 4 * i : 12 + 4 * i], "big") for i in range(4)
    )
    return bottom - top, right - left


def _grey(stored: np.ndarray, dataset: Dataset, frame: int, *, invert: bool) -> Pixels:
    values, bits = _used_bits(stored, dataset)
    valid = not_padding(stored, values, bits, dataset)
    dataset = _with_frame_groups(dataset, frame)
    scaled, increasing, span = apply_modality(values, dataset, value_range(values, bits))
    shown = apply_voi(scaled, dataset, span)
    if shown is not None:
        levels = np.rint(shown * 255).astype(np.uint8)
        return Pixels(levels, display=True, invert=invert, valid=valid)
    if values.dtype == np.uint8 and bits <= 8 and increasing:
        # Shown unchanged like any 8-bit file, whatever the unit of the values.
        levels = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
        return Pixels(levels, display=True, invert=invert, valid=valid)
    if values.dtype == np.uint16 and increasing:
        scaled = values  # scaling to the display range undoes any increasing linear map
    return Pixels(scaled, invert=invert, valid=valid)


def _used_bits(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Drop the unused high bits, where old files keep overlays; up to 8 bits become uint8."""
    if stored.dtype.kind == "f":
        return stored, 0
    allocated = stored.dtype.itemsize * 8
    bits = int(dataset.get("BitsStored") or allocated)
    if not 0 < bits <= allocated:
        raise ImageError("is damaged (bits stored)", remedy="export it again")
    high = int(dataset.get("HighBit") or bits - 1)
    if bits - 1 < high < allocated:  # some old files use the upper bits
        stored = stored >> (high + 1 - bits)
    if bits < allocated:
        stored = (stored << (allocated - bits)) >> (allocated - bits)
    if stored.dtype.kind == "u" and bits <= 8:
        stored = stored.astype(np.uint8)
    return stored, bits


def _with_frame_groups(dataset: Dataset, frame: int) -> Dataset:
    """Copy the rescale and window of one frame of an enhanced object to the top level."""
    flat = Dataset()
    flat.update({element.tag: element for element in dataset if element.VR != "SQ"})
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name in dataset:
            flat[name] = dataset[name]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                flat.update(item)
    return flat
