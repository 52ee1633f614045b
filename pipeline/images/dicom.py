"""DICOM through pydicom: the header, the frames and their stored samples.

The order of steps is that of PS3.3 C.11 and PS3.4 N.2: stored values, padding removed, modality
LUT, VOI LUT or window, one inversion for MONOCHROME1. Overlays,
shutters and presentation states are not applied. Only the elements listed here are parsed, so no
name, id or date is in memory while pixels are read.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import ImageError
from pipeline.images.types import DICOMDIR_REASON, FrameInfo, Pixels, SkippedFile, check_size

# pydicom quotes header values in its warnings and log lines, and neither may reach a log.
warnings.filterwarnings("ignore", module=r"pydicom\.")
warnings.filterwarnings("ignore", module=r"pylibjpeg")
for _name in ("pydicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Range = tuple[float, float]
_FLOATS = {"FloatPixelData": "FloatPixel", "DoubleFloatPixelData": "DoubleFloatPixel"}
PADDING_TAGS = [
    f"{prefix}Padding{part}"
    for prefix in ("Pixel", *_FLOATS.values())
    for part in ("Value", "RangeLimit")
]
COLOURS = ("Red", "Green", "Blue")
PALETTE_TAGS = [
    f"{colour}PaletteColorLookupTable{part}"
    for colour in COLOURS
    for part in ("Descriptor", "Data")
]
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


def probe(data: bytes, kind: str) -> list[FrameInfo]:
    """List the frames, from the header."""
    rows, columns, frames = _geometry(load_dataset(data))
    return [FrameInfo(index, columns, rows) for index in range(frames)]


def read(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one frame and apply the grey-scale or colour pipeline.

    Returns:
        Values (h, w) grey or (h, w, 3) colour. uint8 if they are display values (windowed, 8 bits
        or a palette), otherwise the stored integers, or float64 after the modality LUT.

    Raises:
        ImageError: no such frame, truncated, too large, unknown compression or colour model.
        SkippedFile: a DICOMDIR, or an object without pixels.
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
    plugin = RLE_PLUGIN if syntax == RLELossless else ""
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
        return  # `decode_frame` checks the lengths
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


def value_range(values: np.ndarray, bits: int) -> Range:
    """Return the lowest and highest value that samples of this type can have."""
    if values.dtype.kind == "f":
        return -math.inf, math.inf
    if values.dtype.kind == "i":
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def not_padding(
    stored: np.ndarray, values: np.ndarray, bits: int, dataset: Dataset
) -> np.ndarray | None:
    """Return which pixels are not padding (PS3.3 C.7.5.1.1.2).

    Args:
        stored: (h, w) samples with their unused high bits, which a padding value may use.
        values: (h, w) samples without unused bits, sign-extended.
        bits: bits stored; unused for floats.
        dataset: holds the padding value, and the limit of the padding range if there is one.

    Returns:
        bool (h, w); None if the file has no padding value.
    """
    names = (prefix for name, prefix in _FLOATS.items() if name in dataset)
    prefix = next(names, "Pixel") if stored.dtype.kind == "f" else "Pixel"
    value = dataset.get(f"{prefix}PaddingValue")
    if value is None or (stored.dtype.kind == "f" and prefix == "Pixel"):
        return None
    limit = dataset.get(f"{prefix}PaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if stored.dtype.kind == "f":
        return _outside(stored, [stored.dtype.type(end) for end in ends])
    # Writers disagree about the sign of these elements: take their bits in the type of the pixels.
    width = stored.dtype.itemsize
    raw = [int(end) & (2 ** (8 * width) - 1) for end in ends]
    ends = used = [int(np.array(end, f"u{width}").astype(stored.dtype)) for end in raw]
    if stored.dtype.kind == "i":  # samples and padding value may differ in sign extension
        half = 2 ** (bits - 1)
        used = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    return _outside(stored, ends) & _outside(values, used)


def _outside(samples: np.ndarray, ends: list) -> np.ndarray:
    return (samples < min(ends)) | (samples > max(ends))


def apply_modality(
    values: np.ndarray, dataset: Dataset, span: Range
) -> tuple[np.ndarray, bool, Range]:
    """Apply the modality LUT, or rescale slope and intercept (PS3.3 C.11.1).

    Args:
        values: stored values without unused bits.
        dataset: holds the elements at its top level.
        span: `value_range` of the samples.

    Returns:
        The values (float64 if rescaled), whether the map is linear and increasing, and the range
        of possible results.
    """
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        values, bits = _look_up(values, sequence[0], span)
        return values, False, (0.0, 2.0**bits - 1)
    slope = _number(dataset.get("RescaleSlope")) or 1.0  # a slope of 0 is not one
    intercept = _number(dataset.get("RescaleIntercept")) or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return values, True, span
    low, high = sorted(end * slope + intercept for end in span)
    return values * slope + intercept, slope > 0, (low, high)


def apply_voi(values: np.ndarray, dataset: Dataset, span: Range) -> np.ndarray | None:
    """Apply the VOI LUT, or else the first usable window (PS3.3 C.11.2).

    Args:
        values: modality values.
        dataset: holds the elements at its top level.
        span: range of possible modality values.

    Returns:
        float64 in [0, 1] of the same shape; None if the file has neither.
    """
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        looked_up, bits = _look_up(values, sequence[0], span)
        return np.clip(looked_up / (2**bits - 1), 0, 1)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    for center, width in zip(
        _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth")), strict=False
    ):
        if center is not None and width is not None and width > 0:  # zero width shows nothing
            return _window(values.astype(np.float64), center, width, function)
    return None


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function != "LINEAR_EXACT" and width > 1:  # LINEAR is not defined for a width below 1
        center, width = center - 0.5, width - 1
    return np.clip((values - center) / width + 0.5, 0, 1)


def _look_up(values: np.ndarray, item: Dataset, span: Range) -> tuple[np.ndarray, int]:
    """Return the entries for `values`, clipped to the table, and the bits of an entry."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16
    # A negative first value is often written or read as unsigned. Take the interpretation whose
    # table covers more of the possible values; the content of a single frame must not decide.
    if first >= 2**15 and _covered(first - 2**16, entries, span) > _covered(first, entries, span):
        first -= 2**16
    raw = item.LUTData
    if isinstance(raw, bytes):
        raw = _words(raw, item) if len(raw) >= 2 * entries else np.frombuffer(raw, np.uint8)
    table = np.atleast_1d(np.asarray(raw)).astype(np.int64) & 0xFFFF
    if not 0 < entries <= table.size or not 1 <= bits <= 16:
        raise ImageError("has a damaged look-up table", remedy="export it again")
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table[index], bits


def _covered(first: int, entries: int, span: Range) -> float:
    return max(0.0, min(span[1], first + entries - 1) - max(span[0], first) + 1)


def apply_palette(index: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look up the colours of palette indices (PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6).

    pydicom's `apply_color_lut` wraps an index of 256 and more in an 8-bit table, and refuses
    8-bit tables of odd length.

    Args:
        index: integers of any shape, without unused bits; clipped to the table.
        dataset: holds a table of each colour. Segmented tables are not supported.

    Returns:
        uint8, the shape of `index` with a last axis of 3.

    Raises:
        ImageError: a table is segmented, damaged or missing.
    """
    if index.dtype.kind not in "ui":
        raise ImageError("has a palette but no integer samples", remedy="export it again")
    tables = [_palette(dataset, colour) for colour in COLOURS]
    # Some writers keep 8-bit entries in 16-bit words, whatever the descriptor says. The complete
    # tables decide, not one frame, which may use dark entries only.
    shift = 8 if any(entries.max() > 255 for entries, _ in tables) else 0
    wide = index.astype(np.int64)
    return np.stack(
        [
            (entries >> shift).astype(np.uint8)[np.clip(wide - first, 0, entries.size - 1)]
            for entries, first in tables
        ],
        axis=-1,
    )


def _palette(dataset: Dataset, colour: str) -> tuple[np.ndarray, int]:
    """Return the entries of one colour, uint16 (n,), and the index of the first of them."""
    name = f"{colour}PaletteColorLookupTable"
    entries, first, bits = (int(v) for v in dataset[f"{name}Descriptor"].value)
    entries = entries & 0xFFFF or 2**16  # 65,536 is written as 0, and may be read as negative
    if first >= 2**15 and dataset.get("PixelRepresentation") == 1:
        first -= 2**16  # read as unsigned although the indices are signed
    if f"{name}Data" not in dataset:
        raise ImageError(
            "has a segmented or missing palette", remedy="export it with plain palettes, or as RGB"
        )
    element = dataset[f"{name}Data"]
    raw = element.value
    if not isinstance(raw, bytes):  # read as numbers (US), which hold two 8-bit entries each
        raw = np.atleast_1d(np.asarray(raw)).astype("<u2").tobytes()
    elif element.VR != "OB":
        raw = _words(raw, dataset).astype("<u2").tobytes() + raw[len(raw) // 2 * 2 :]
    # The length is more reliable than the descriptor, except for a single entry (padded to even).
    words = len(raw) >= 2 * entries and (entries > 1 or bits == 16)
    table = (
        np.frombuffer(raw[: len(raw) // 2 * 2], "<u2") if words else np.frombuffer(raw, np.uint8)
    )
    if table.size < entries or bits not in (8, 16):
        raise ImageError("has a damaged palette", remedy="export it again")
    return table[:entries].astype(np.uint16), first


def _words(raw: bytes, dataset: Dataset) -> np.ndarray:
    """Return the 16-bit words of an element, in the byte order of the file."""
    big = dataset.original_encoding[1] is False
    return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2" if big else "<u2")


def _numbers(value: object) -> list[float | None]:
    if value is None:
        return []
    many = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return [_number(v) for v in many]


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


# The pydicom plugin for RLE frames. Of pydicom's own ones one is slow, and the other panics on
# damaged frames: it prints to the terminal and raises a BaseException.
RLE_PLUGIN = "imagecodecs"
RLE_HEADER = 64  # bytes
DECODER_DEPENDENCIES = {RLELossless: ("imagecodecs",)}


def is_available(uid: str) -> bool:
    """Return whether the plugin decodes a transfer syntax (called by pydicom)."""
    return uid == RLELossless


def decode_frame(src: bytes, runner: DecodeRunner) -> bytearray:
    """Return the samples of one frame, little-endian, colour by plane (called by pydicom)."""
    samples, size = runner.samples_per_pixel, runner.bits_allocated // 8
    if int.from_bytes(src[:4], "little") != samples * size:
        raise ValueError("the number of RLE segments does not fit the header")
    starts = np.frombuffer(src, "<u4", samples * size, 4).astype(np.int64)
    if starts[0] < RLE_HEADER or (np.diff([*starts, len(src)]) <= 0).any():
        # imagecodecs reads out of bounds otherwise
        raise ValueError("the RLE segments are not in order within the frame")
    frame = imagecodecs.dicomrle_decode(src, f"<u{size}")
    if len(frame) != runner.rows * runner.columns * samples * size:
        raise ValueError("the length of the RLE frame does not fit the header")
    runner.set_option("planar_configuration", 1)
    return bytearray(frame)


get_decoder(RLELossless).add_plugin(RLE_PLUGIN, (__name__, "decode_frame"))
