"""DICOM through pydicom.

The order of steps is that of PS3.3 C.11 and PS3.4 N.2: stored values, padding removed, modality
LUT, VOI LUT or window, one inversion for MONOCHROME1; no overlays, shutters or presentation states.
Only the elements in `_TAGS` are parsed: no name, id or date is in memory while pixels are read.
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
from pydicom import uid
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length

from pipeline.errors import ImageError
from pipeline.images import formats
from pipeline.images.formats import AGAIN, Pixels, SkippedFile, check_frame, check_size

# pydicom quotes header values in its warnings and log lines, and neither may reach a log.
warnings.filterwarnings("ignore", module=r"pydicom\.")
warnings.filterwarnings("ignore", module=r"pylibjpeg")
for _name in ("pydicom", "pylibjpeg"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Range = tuple[float, float]
COLOURS = ("Red", "Green", "Blue")
PALETTE = "PaletteColorLookupTable"
# Image pixels (0028), their functional groups (5200) and the pixel data (7FE0).
_TAGS = [tag for tag in DicomDictionary if tag >> 16 in (0x0028, 0x5200, 0x7FE0)]
_TAGS += ["SOPClassUID", "Modality", "PresentationLUTShape", "DirectoryRecordSequence"]
MAX_DEFLATED = 2**30  # bytes
DICOMDIR = "1.2.840.10008.1.3.10"
STORAGE = "1.2.840.10008.5.1.4.1.1."  # of SOP classes; the keys below follow it
SLIDES = "77.1.6"  # whole slide microscopy
# Objects with pixels, or about them, that are not images: what they are called when counted.
NOT_IMAGES = {
    "66": "DICOM raw data or registration",
    "66.4": "DICOM segmentation (SEG): ground truth, not an image",
    "66.5": "DICOM surface segmentation: ground truth, not an image",
    "66.7": "DICOM segmentation (SEG): ground truth, not an image",
    "481.2": "DICOM RT dose, not an image",
    "481.3": "DICOM RT structure set: contours, not an image",
    "30": "DICOM parametric map, not an image",
    "11": "DICOM presentation state, not an image",
    "88": "DICOM structured or dose report, not an image",
    "104": "document in DICOM, not an image",
}
# Of an image's type (ImageType), in files of images.
NOT_SLICES = {
    "LOCALIZER": "DICOM localizer (scout), not a slice",
    "SCREEN SAVE": "DICOM screen shot or dose report, not an image",
    "DOSE_INFO": "DICOM dose report, not an image",
    "CSA REPORT": "DICOM protocol or dose report, not an image",
}
NOT_SLIDES = {
    "LABEL": "label of a slide, not an image of it",
    "OVERVIEW": "overview of a slide, not an image of it",
    "THUMBNAIL": "thumbnail of a slide, not an image of it",
    "RESAMPLED": "lower level of a slide's pyramid",
}
ACQUIRED = ("2", "4", "128")  # CT, MR and PET, with their enhanced and legacy kinds
SECONDARY = "7"  # secondary capture: a film, a photograph, a screen shot
# Modalities whose screen shots are reports; "" = not stated. What ultrasound devices and scanners
# of films export is of another one, and is the image.
SCREENS = ("CT", "MR", "PT", "NM", "OT", "SR", "SC", "DOC", "")
CT_SPAN = (-1000.0, 1000.0)  # HU that are black and white in a CT slice without a window
# Compressions that no package here decodes, by the start of their UID, and what helps.
HELP = {
    "1.2.840.10008.1.2.4.10": "it is a video: save its frames as PNG, e.g. with ffmpeg",
    "1.2.840.10008.1.2.4.94": "its pixels are on a server (JPIP): download the complete file",
    "1.2.840.10008.1.2.4.95": "its pixels are on a server (JPIP): download the complete file",
    "1.2.840.10008.1.2.4.11": "decode its frames with the package imagecodecs (jpegxl_decode)",
    "": "decompress it first, e.g. with `gdcmconv --raw`, `dcmdjpeg`, or the vendor's viewer",
}
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # F7: JPEG-LS
_END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
LEAVE = "leave it out of the dataset"
_DAMAGED_TABLE = "has a damaged look-up table or palette"


def probe(data: bytes, kind: str) -> list[tuple[int, int]]:
    """List the sizes of the frames, from the header."""
    dataset, frames = _open(data)
    return [(dataset.Columns, dataset.Rows)] * frames


def read(data: bytes, kind: str, frame: int) -> Pixels:
    """Decode one frame: uint8 if windowed, of 8 bits or of a palette, otherwise the stored
    integers, or float64 after the modality LUT."""
    dataset, frames = _open(data)
    check_frame(frame, frames)
    stored = _stored(dataset, frame, frames)
    model = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if stored.shape[2:] == (3,):
        return Pixels(stored, display=stored.dtype == np.uint8)
    if stored.ndim == 2 and model == "PALETTE COLOR":
        index = _used_bits(stored, dataset)[0]
        return Pixels(_apply_palette(index, dataset), display=True, index=index)
    if stored.ndim == 2 and model in ("MONOCHROME1", "MONOCHROME2"):
        # The presentation LUT shape says the same as MONOCHROME1, not that it is inverted twice.
        shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
        invert = model == "MONOCHROME1" or shape == "INVERSE"
        return _grey(stored, dataset, frame, invert=invert)
    raise ImageError("has an unknown colour model", remedy="export it as MONOCHROME2 or RGB")


def other_object(data: bytes) -> str:
    """Return what a file is if it is not an image of its own, by SOP class and image type; ""."""
    header = parse(data, ["SOPClassUID", "ImageType", "Modality"])
    of, types = _storage(header), header.get("ImageType") or []
    types = {str(word).strip().upper() for word in ([types] if isinstance(types, str) else types)}
    named = NOT_SLIDES if of == SLIDES else NOT_SLICES
    if not _has_screens(header):
        types.discard("SCREEN SAVE")
    found = (what for word, what in named.items() if word in types)
    return NOT_IMAGES.get(of) or NOT_IMAGES.get(of.partition(".")[0]) or next(found, "")


def capture(data: bytes) -> str:
    """Return "acquired" for a CT, MR or PET image, "secondary" for a secondary capture that may be
    a report on them, or ""."""
    header = parse(data, ["SOPClassUID", "Modality"])
    first = _storage(header).partition(".")[0]
    secondary = first == SECONDARY and _has_screens(header)
    return "acquired" if first in ACQUIRED else "secondary" if secondary else ""


def _has_screens(header: Dataset) -> bool:
    return str(header.get("Modality") or "").strip().upper() in SCREENS


def _storage(header: Dataset) -> str:
    """Return the SOP class after `STORAGE`, or ""."""
    uids = header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")
    found = next((str(one).strip() for one in uids if one), "")
    return found.removeprefix(STORAGE) if found.startswith(STORAGE) else ""


def parse(data: bytes, tags: list[str]) -> Dataset:
    """Parse the elements `tags`, with or without a preamble; more than 1 GiB is an ImageError."""
    if str(uid.DeflatedExplicitVRLittleEndian).encode() in data[:2048]:
        # pydicom inflates it in one piece.
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        total, rest = 0, data[144 + int.from_bytes(data[140:144], "little") :]
        while rest and not inflater.eof:
            total += len(inflater.decompress(rest, 2**22))
            rest = inflater.unconsumed_tail
            if total > MAX_DEFLATED:
                raise ImageError("inflates to more than 1 GiB", remedy="store it uncompressed")
    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=tags)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        suffix = "" if implicit else ".1" if little else ".2"
        dataset.file_meta.TransferSyntaxUID = uid.UID(f"1.2.840.10008.1.2{suffix}")
    return dataset


def _open(data: bytes) -> tuple[Dataset, int]:
    """Return the header, with enough pixel data for it, and the number of frames."""
    dataset = parse(data, _TAGS)
    storage = str(dataset.file_meta.get("MediaStorageSOPClassUID", dataset.get("SOPClassUID", "")))
    if storage == DICOMDIR or "DirectoryRecordSequence" in dataset:
        raise SkippedFile(formats.DICOMDIR_REASON, remedy=LEAVE)
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise ImageError("has float pixels", remedy="export it as MONOCHROME2 of 16 bits, or TIFF")
    if "PixelData" not in dataset and not ("Rows" in dataset and "BitsAllocated" in dataset):
        what = "a DICOM object without pixels (report, plan or presentation state)"
        raise SkippedFile(what, remedy=LEAVE)
    _check_syntax(dataset)
    columns, rows = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    check_size(columns, rows)
    frames = int(dataset.get("NumberOfFrames") or 1)
    # An encapsulated frame has an item header of 8 bytes at least.
    needed = 8 * frames if _encapsulated(dataset) else get_expected_length(dataset)
    if frames < 1 or len(dataset.get("PixelData") or b"") < needed:
        need = f"{frames} frames of {columns} x {rows} need more pixel data"
        raise ImageError(f"is truncated: {need}", remedy=AGAIN)
    return dataset, frames


def _check_syntax(dataset: Dataset) -> None:
    """Refuse a transfer syntax that cannot be decoded, with what helps: its pixel data may look
    damaged, but are not."""
    syntax = dataset.file_meta.TransferSyntaxUID
    helps = next(text for start, text in HELP.items() if syntax.startswith(start))
    if "PixelDataProviderURL" in dataset and "PixelData" not in dataset:
        raise ImageError("has its pixels on a server (JPIP)", remedy="download the complete file")
    try:
        decoder = get_decoder(syntax) if _encapsulated(dataset) else None
        known = syntax.is_transfer_syntax and not syntax.is_private
    except NotImplementedError:
        decoder, known = None, False
    if not known:
        private = "a private or unknown" if syntax.name == str(syntax) else "an unsupported"
        name = syntax if syntax.name == str(syntax) else f"{syntax.name}, {syntax}"
        raise ImageError(f"uses {private} transfer syntax ({name})", remedy=helps)
    if decoder and not decoder.is_available:
        missing = "; ".join(decoder.missing_dependencies) or helps
        what = f"uses the transfer syntax {syntax.name}, for which a package is missing"
        raise ImageError(what, remedy=f"install {missing}")


def _encapsulated(dataset: Dataset) -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    return syntax.is_transfer_syntax and not syntax.is_private and syntax.is_encapsulated


def _stored(dataset: Dataset, frame: int, frames: int) -> np.ndarray:
    """Decode one frame, unused high bits included (a padding value may be in them)."""
    syntax, size = dataset.file_meta.TransferSyntaxUID, dataset.Rows * dataset.Columns
    if _encapsulated(dataset):
        offsets = None
        if "ExtendedOffsetTable" in dataset:
            offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
        stream = pydicom.encaps.get_frame(
            dataset.PixelData, frame, number_of_frames=frames, extended_offsets=offsets
        )
        if syntax == uid.RLELossless:
            _unpack_rle(stream, dataset)
            frame = 0
        else:
            _check_codestream(stream, dataset)
    elif dataset.get("BitsAllocated") == 1 and size % 8:
        # Frames of 1 bit follow without a gap: one may start within a byte.
        first, skip = divmod(frame * size, 8)
        raw = np.frombuffer(dataset.PixelData, np.uint8)[first : first + size // 8 + 2]
        bits = np.unpackbits(raw, bitorder="little")[skip : skip + size]
        return bits.reshape(dataset.Rows, dataset.Columns)
    return pixel_array(dataset, index=frame, correct_unused_bits=False)


def _unpack_rle(stream: bytes, dataset: Dataset) -> None:
    """Replace the pixel data by one decoded frame, colour by plane.

    Of pydicom's RLE decoders one accepts damaged frames, and the other one panics.
    """
    samples, size = dataset.SamplesPerPixel, dataset.BitsAllocated // 8
    count, *starts = np.frombuffer(stream, "<u4", 1 + samples * size).astype(np.int64)
    # imagecodecs reads out of bounds if segments are not in order, after the header of 64 bytes.
    if count != len(starts) or starts[0] < 64 or (np.diff([*starts, len(stream)]) <= 0).any():
        raise ValueError("the RLE segments do not fit the frame")
    frame = imagecodecs.dicomrle_decode(stream, f"<u{size}")
    if len(frame) != dataset.Rows * dataset.Columns * samples * size:
        raise ValueError("the length of the RLE frame does not fit the header")
    dataset.PixelData, dataset.NumberOfFrames, dataset.PlanarConfiguration = bytes(frame), 1, 1
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if dataset.PhotometricInterpretation == "YBR_FULL_422":  # RLE has no subsampling
        dataset.PhotometricInterpretation = "YBR_FULL"


def _check_codestream(stream: bytes, dataset: Dataset) -> None:
    """Refuse a JPEG frame that is truncated or not of the header's size.

    Decoders silently fill the missing part with grey or black, and take the size from the stream.
    """
    if stream.rfind(_END) < len(stream) // 2:  # writers add padding, and more, after it
        raise ImageError("has a truncated compressed frame", remedy=AGAIN)
    if stream[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000
        right, bottom, left, top = (int(v) for v in np.frombuffer(stream, ">u4", 4, 8))
        size = bottom - top, right - left
    else:
        size = _jpeg_size(stream)
    if size != (dataset.Rows, dataset.Columns):
        own = f"{dataset.Columns} x {dataset.Rows} by its header, but not by its compressed frame"
        raise ImageError(f"is {own}", remedy=AGAIN)


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    offset = 2
    while stream[:2] == b"\xff\xd8" and stream[offset : offset + 1] == b"\xff":
        marker = stream[offset + 1]
        if marker in _START_OF_FRAME:
            height, width = np.frombuffer(stream, ">u2", 2, offset + 5)
            return int(height), int(width)
        fill = marker == 0xFF
        offset += 1 if fill else 2 + int.from_bytes(stream[offset + 2 : offset + 4], "big")
    return None


def _used_bits(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Drop the unused high bits, where old files keep overlays; up to 8 bits become uint8."""
    allocated = stored.dtype.itemsize * 8
    bits = int(dataset.get("BitsStored") or allocated)
    if not 0 < bits <= allocated:
        raise ImageError("is damaged (bits stored)", remedy=AGAIN)
    high = int(dataset.get("HighBit") or bits - 1)
    if bits - 1 < high < allocated:  # some old files use the upper bits
        stored = stored >> (high + 1 - bits)
    if bits < allocated:
        stored = (stored << (allocated - bits)) >> (allocated - bits)
    if stored.dtype.kind == "u" and bits <= 8:
        stored = stored.astype(np.uint8)
    return stored, bits


def _grey(stored: np.ndarray, dataset: Dataset, frame: int, *, invert: bool) -> Pixels:
    values, bits = _used_bits(stored, dataset)
    valid = _not_padding(stored, values, bits, dataset)
    signed = values.dtype.kind == "i"
    span = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    _copy_frame_groups(dataset, frame)
    scaled, increasing, span = _apply_modality(values, dataset, span)
    shown = _apply_voi(scaled, dataset, span)
    if shown is not None:
        levels = np.rint(shown * 255)
    elif values.dtype == np.uint8 and increasing:
        # Shown unchanged like any 8-bit file, whatever the unit of the values.
        levels = values.astype(np.uint16) * 255 // (2**bits - 1)
    elif _in_hounsfield(dataset, span):
        return Pixels(scaled, invert=invert, valid=valid, span=CT_SPAN)
    else:
        per_frame = "PerFrameFunctionalGroupsSequence" in dataset  # maybe another map for each
        if values.dtype == np.uint16 and increasing and not per_frame:
            scaled = values  # scaling to the display range undoes any increasing linear map
        return Pixels(scaled, invert=invert, valid=valid)
    return Pixels(levels.astype(np.uint8), display=True, invert=invert, valid=valid)


def _in_hounsfield(dataset: Dataset, span: Range) -> bool:
    """Return whether the values of a CT image, whose possible range is `span`, are in HU."""
    unit = str(dataset.get("RescaleType") or "HU").strip().upper()
    kind = str(dataset.get("Modality") or "").strip().upper()
    ct = kind == "CT" or _storage(dataset).partition(".")[0] == ACQUIRED[0]
    return ct and unit == "HU" and span[0] < 0


def _copy_frame_groups(dataset: Dataset, frame: int) -> None:
    """Copy the rescale and window of one frame of an enhanced object to the top level."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(name) or [])[:1]:
                dataset.update(item)


def _not_padding(
    stored: np.ndarray, values: np.ndarray, bits: int, dataset: Dataset
) -> np.ndarray | None:
    """Return which pixels are not padding, if the file has a padding value (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    # Writers disagree about the sign of these elements: take their bits in the type of the pixels.
    mask = 2 ** (8 * stored.dtype.itemsize) - 1
    unsigned = np.array([int(end) & mask for end in (value, value if limit is None else limit)])
    ends = used = unsigned.astype(stored.dtype).tolist()
    if stored.dtype.kind == "i":  # samples and padding value may differ in sign extension
        half = 2 ** (bits - 1)
        used = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    is_stored = (stored >= min(ends)) & (stored <= max(ends))
    return ~(is_stored | ((values >= min(used)) & (values <= max(used))))


def _apply_modality(values: np.ndarray, dataset: Dataset, span: Range) -> tuple:
    """Apply the modality LUT, or rescale slope and intercept (PS3.3 C.11.1).

    `span` is the range of possible values. Returns the new values, whether the map is linear and
    increasing, and the new range.
    """
    if sequence := dataset.get("ModalityLUTSequence"):
        values, bits = _look_up(values, sequence[0], span)
        return values, False, (0.0, 2.0**bits - 1)
    slope = _number(dataset.get("RescaleSlope")) or 1.0  # a slope of 0 is not one
    intercept = _number(dataset.get("RescaleIntercept")) or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return values, True, span
    low, high = sorted(end * slope + intercept for end in span)
    return values * slope + intercept, slope > 0, (low, high)


def _apply_voi(values: np.ndarray, dataset: Dataset, span: Range) -> np.ndarray | None:
    """Apply the VOI LUT, or else the first usable window (PS3.3 C.11.2); to float64 in [0, 1]."""
    if sequence := dataset.get("VOILUTSequence"):
        looked_up, bits = _look_up(values, sequence[0], span)
        return np.clip(looked_up / (2**bits - 1), 0, 1)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    centers, widths = (
        list(v) if isinstance(v, pydicom.multival.MultiValue) else [v]
        for v in (dataset.get("WindowCenter"), dataset.get("WindowWidth"))
    )
    for center, width in zip(map(_number, centers), map(_number, widths), strict=False):
        if center is None or width is None or width <= 0:  # zero width shows nothing
            continue
        if function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        if function != "LINEAR_EXACT" and width > 1:  # LINEAR is not defined for a width below 1
            center, width = center - 0.5, width - 1
        return np.clip((values - center) / width + 0.5, 0, 1)
    return None


def _look_up(values: np.ndarray, item: Dataset, span: Range) -> tuple[np.ndarray, int]:
    """Return the entries for `values`, clipped to the table, and the bits of an entry."""
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = entries or 2**16

    def covered(first: int) -> float:
        return max(0.0, min(span[1], first + entries - 1) - max(span[0], first) + 1)

    # A negative first value is often written or read as unsigned. Take the interpretation whose
    # table covers more of the possible values; the content of a single frame must not decide.
    if first >= 2**15 and covered(first - 2**16) > covered(first):
        first -= 2**16
    raw = item.LUTData
    if isinstance(raw, bytes):
        raw = _words(raw, item) if len(raw) >= 2 * entries else np.frombuffer(raw, np.uint8)
    table = np.atleast_1d(np.asarray(raw)).astype(np.int64) & 0xFFFF
    if not 0 < entries <= table.size or not 1 <= bits <= 16:
        raise ImageError(_DAMAGED_TABLE, remedy=AGAIN)
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table[index], bits


def _words(raw: bytes, dataset: Dataset) -> np.ndarray:
    """Return the 16-bit words of an element, in the byte order of the file."""
    big = dataset.original_encoding[1] is False
    return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2" if big else "<u2")


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _apply_palette(index: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look up the colours of palette indices (PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6).

    pydicom's `apply_color_lut` wraps large indices, and refuses 8-bit tables of odd length.
    """
    tables = [_palette(dataset, colour) for colour in COLOURS]
    # Some writers keep 8-bit entries in 16-bit words, whatever the descriptor says. The complete
    # tables decide, not one frame, which may use dark entries only.
    shift = 8 if any(entries.max() > 255 for entries, _ in tables) else 0
    wide = index.astype(np.int64)
    clipped = ((entries, np.clip(wide - first, 0, entries.size - 1)) for entries, first in tables)
    return np.stack([(entries[at] >> shift).astype(np.uint8) for entries, at in clipped], axis=-1)


def _palette(dataset: Dataset, colour: str) -> tuple[np.ndarray, int]:
    """Return the entries of one colour, uint16 (n,), and the index of the first of them."""
    entries, first, bits = (int(v) for v in dataset[f"{colour}{PALETTE}Descriptor"].value)
    entries = entries & 0xFFFF or 2**16  # 65,536 is written as 0, and may be read as negative
    if first >= 2**15 and dataset.get("PixelRepresentation") == 1:
        first -= 2**16  # read as unsigned although the indices are signed
    if f"{colour}{PALETTE}Data" not in dataset:
        remedy = "export it with plain palettes, or as RGB"
        raise ImageError("has a segmented or missing palette", remedy=remedy)
    element = dataset[f"{colour}{PALETTE}Data"]
    raw = element.value
    if not isinstance(raw, bytes):  # read as numbers (US), which hold two 8-bit entries each
        raw = np.atleast_1d(np.asarray(raw)).astype("<u2").tobytes()
    elif element.VR != "OB":
        raw = _words(raw, dataset).astype("<u2").tobytes() + raw[len(raw) // 2 * 2 :]
    # The length is more reliable than the descriptor, except for a single entry (padded to even).
    words = len(raw) >= 2 * entries and (entries > 1 or bits == 16)
    table = np.frombuffer(raw[: len(raw) // 2 * 2] if words else raw, "<u2" if words else np.uint8)
    if table.size < entries or bits not in (8, 16):
        raise ImageError(_DAMAGED_TABLE, remedy=AGAIN)
    return table[:entries].astype(np.uint16), first
