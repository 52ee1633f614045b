"""DICOM through pydicom: the dataset, its frames and their display values.

Order (PS3.3 C.11 and PS3.4 N.2): stored values -> padding removed -> modality LUT -> VOI ->
one inversion for MONOCHROME1. Overlays, shutters and presentation states are not burnt in.
Only the tags listed here are parsed, so that no name, id or date is ever in memory with them.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import ImageError
from pipeline.images import rle_plugin
from pipeline.images.codestream import check_codestream
from pipeline.images.luts import apply_modality, apply_voi
from pipeline.images.padding import PADDING_TAGS, not_padding
from pipeline.images.palette import COLOURS, apply_palette
from pipeline.images.types import DICOMDIR_REASON, FrameInfo, Pixels, SkippedFile, check_size

# pydicom quotes header values in its warnings and log lines; neither may reach a log.
warnings.filterwarnings("ignore", module=r"pydicom\.")
warnings.filterwarnings("ignore", module=r"pylibjpeg")
for _name in ("pydicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
get_decoder(RLELossless).add_plugin(rle_plugin.NAME, (rle_plugin.__name__, "decode_frame"))

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PALETTES = [
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in COLOURS
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]
_TAGS = [
    "SOPClassUID", "DirectoryRecordSequence", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *PADDING_TAGS, *_PALETTES, *PIXELS,
]  # fmt: skip
MAX_DEFLATED = 2**30
DICOMDIR = "1.2.840.10008.1.3.10"


def probe_dicom(data: bytes, kind: str) -> list[FrameInfo]:
    """List the frames from the header."""
    dataset = load_dataset(data)
    rows, columns, frames = _geometry(dataset)
    return [FrameInfo(index, columns, rows) for index in range(frames)]


def read_dicom(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one frame through the grey-scale or colour pipeline.

    Args:
        data: the file's bytes.
        kind: "DICOM".
        frame: counted from 0.

    Returns:
        Values of (h, w) grey or (h, w, 3) colour; uint8 where they are shown unchanged (windowed,
        8 bits, a palette), otherwise the stored integers, or floats after the modality LUT.

    Raises:
        ImageError: no such frame; it is cut, too large, compressed in an unknown way, or of an
            unknown colour model.
        SkippedFile: a DICOMDIR, or an object without pixels.
        Exception: of the decoder, for damaged bytes; `read_image` makes an ImageError of it.
    """
    dataset = load_dataset(data)
    rows, columns, frames = _geometry(dataset)
    if not 0 <= frame < frames:
        raise ImageError(f"has no frame {frame}: it holds {frames}", remedy="frames are 0-based")
    _check_stream(dataset, frame, frames)
    stored = _stored(dataset, frame, rows * columns)
    if stored.shape[:2] != (rows, columns):
        raise ImageError("is damaged (frame size)", remedy="export it again")
    model = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if stored.ndim == 3:
        return _colour(stored)
    if model == "PALETTE COLOR":
        return _palette(stored, dataset)
    if model not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError("has an unknown colour model", remedy="export it as MONOCHROME2 or RGB")
    return _grey(stored, dataset, frame, invert=model == "MONOCHROME1")


def load_dataset(data: bytes, tags: list[str] | None = None) -> Dataset:
    """Parse the wanted tags only.

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
                "describes pixels but holds none: it is cut short", remedy="copy again"
            )
        raise SkippedFile("a DICOM object without pixels (a report, plan or presentation)")
    return dataset


def _geometry(dataset: Dataset) -> tuple[int, int, int]:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size(columns, rows)
    syntax = dataset.file_meta.TransferSyntaxUID
    pixels = next(dataset[name].value for name in PIXELS if name in dataset)
    bits = rows * columns * frames * int(dataset.get("SamplesPerPixel") or 1)
    bits *= int(dataset.get("BitsAllocated") or 8)
    # An encapsulated frame has at least an item header of 8 bytes.
    subsampled = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
    least = 8 * frames if _encapsulated(syntax) else (bits * 2 // 3 if subsampled else bits) // 8
    if frames < 1 or pixels is None or len(pixels) < least:
        raise ImageError(
            f"is cut short: {frames} frames of {columns} x {rows} need more pixel data",
            remedy="copy or export it again",
        )
    return rows, columns, frames


def _encapsulated(syntax: UID) -> bool:
    return syntax.is_transfer_syntax and not syntax.is_private and syntax.is_encapsulated


def _check_stream(dataset: Dataset, frame: int, frames: int) -> None:
    """A cut or foreign codestream is refused before a decoder fills the rest with grey."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        if _encapsulated(syntax):
            get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"is compressed in a way that is not read here ({syntax.name})",
            remedy="decompress it first, e.g. with `dcmdjpeg` or `gdcmconv --raw`",
        ) from None
    if not _encapsulated(syntax):
        return
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    stream = pydicom.encaps.get_frame(
        dataset.PixelData, frame, number_of_frames=frames, extended_offsets=offsets
    )
    check_codestream(stream, syntax, dataset.Rows, dataset.Columns)


def _stored(dataset: Dataset, frame: int, size: int) -> np.ndarray:
    """Decode one frame. Unused high bits are kept at first: a padding value may lie in them."""
    native = not _encapsulated(dataset.file_meta.TransferSyntaxUID)
    if native and dataset.get("BitsAllocated") == 1 and size % 8:
        # Frames follow each other without a gap, so that one may start within a byte.
        first, skip = divmod(frame * size, 8)
        raw = np.frombuffer(dataset.PixelData, np.uint8)[first : first + size // 8 + 2]
        bits = np.unpackbits(raw, bitorder="little")[skip : skip + size]
        return bits.reshape(dataset.Rows, dataset.Columns)
    plugin = rle_plugin.NAME if dataset.file_meta.TransferSyntaxUID == RLELossless else ""
    return pixel_array(dataset, index=frame, correct_unused_bits=False, decoding_plugin=plugin)


def _grey(stored: np.ndarray, dataset: Dataset, frame: int, *, invert: bool) -> Pixels:
    values, bits = _used_bits(stored, dataset)
    valid = not_padding(stored, values, bits, dataset)
    little = dataset.original_encoding[1] is not False
    dataset = _with_frame_groups(dataset, frame)
    span = _possible(values, bits)
    scaled, increasing, span = apply_modality(values, dataset, span, little=little)
    shown = apply_voi(scaled, dataset, span, little=little)
    if shown is not None:
        levels = np.rint(shown * 255).astype(np.uint8)
        return Pixels(levels, display=True, invert=invert, valid=valid)
    if values.dtype == np.uint8 and bits <= 8 and increasing:
        # Like any 8-bit file: shown as it is, whatever the unit of the values.
        top = 2**bits - 1
        levels = (values.astype(np.uint16) * 255 // top).astype(np.uint8)
        return Pixels(levels, display=True, invert=invert, valid=valid)
    if values.dtype == np.uint16 and increasing:
        scaled = values  # the range is relative, so a rising line changes nothing
    return Pixels(scaled, invert=invert, valid=valid)


def _used_bits(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Drop what old files keep in the unused high bits (overlays); 8 bits become uint8."""
    if stored.dtype.kind == "f":
        return stored, 0
    allocated = stored.dtype.itemsize * 8
    bits = int(dataset.get("BitsStored") or allocated)
    if not 0 < bits <= allocated:
        raise ImageError("is damaged (bits stored)", remedy="export it again")
    high = int(dataset.get("HighBit") or bits - 1)
    if bits - 1 < high < allocated:  # some old files keep their samples in the upper bits
        stored = stored >> (high + 1 - bits)
    if bits < allocated:
        stored = (stored << (allocated - bits)) >> (allocated - bits)
    if stored.dtype.kind == "u" and bits <= 8:
        stored = stored.astype(np.uint8)
    return stored, bits


def _possible(values: np.ndarray, bits: int) -> tuple[float, float]:
    """Return the lowest and highest value that the type of the samples can hold."""
    if values.dtype.kind == "f":
        return -math.inf, math.inf
    if values.dtype.kind == "i":
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def _with_frame_groups(dataset: Dataset, frame: int) -> Dataset:
    """Bring the rescale and window of an enhanced multi-frame object to the top level."""
    flat = Dataset()
    flat.update({element.tag: element for element in dataset if element.VR != "SQ"})
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        if name in dataset:
            flat[name] = dataset[name]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *each[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                flat.update(item)
    return flat


def _colour(stored: np.ndarray) -> Pixels:
    if stored.shape[2] != 3:
        raise ImageError(f"has {stored.shape[2]} colours", remedy="export it as MONOCHROME2 or RGB")
    return Pixels(stored, display=stored.dtype == np.uint8)


def _palette(stored: np.ndarray, dataset: Dataset) -> Pixels:
    little = dataset.original_encoding[1] is not False
    rgb = apply_palette(_used_bits(stored, dataset)[0], dataset, little=little)
    return Pixels(rgb, display=True, threshold="nonzero")


def _check_deflated(data: bytes) -> None:
    """Count what a deflated file unpacks to, before pydicom unpacks it at one go."""
    if str(DeflatedExplicitVRLittleEndian).encode() not in data[:2048]:
        return
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    while rest and not inflater.eof:
        total += len(inflater.decompress(rest, 2**22))
        rest = inflater.unconsumed_tail
        if total > MAX_DEFLATED:
            raise ImageError("unpacks to more than 1 GiB", remedy="store it without deflation")
