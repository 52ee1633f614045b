"""The image reader: any supported file to the array that all stages and reports use.

The rules (`reader_rules` records them in the identity of every store): the content decides the
format, never the name. EXIF and TIFF orientations are applied: sizes are those of the upright
image. 8-bit samples are unchanged, deeper ones are scaled by robust percentiles of their frame.
Transparent pixels, padding and NaN are black. Every failure is an `ImageError` that names the file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from pipeline import remote
from pipeline.errors import ImageError, RemoteError
from pipeline.images import formats, grid, normalise
from pipeline.images.formats import AGAIN, MAX_BYTES, FrameInfo, Pixels, SkippedFile
from pipeline.images.region import MaskRule, Region, find_region
from pipeline.io import open_bytes
from pipeline.manifest import MaskFiles

READER_VERSION = "7"
SALT = b"medfocusclip patient grouping v2"  # public: short ids can be guessed, slowly
_BACKENDS = {"TIFF": "tiff", "DICOM": "dicom", **dict.fromkeys(("NIFTI", "MHA", "NRRD"), "nifti")}
Window = tuple[float, float]  # center, width
VOLUMES = ("NIFTI", "MHA", "NRRD")  # files that say where their voxels are in space


def reader_rules(window: Window | None = None) -> dict[str, Any]:
    """Return what decides the result of `read_image`, JSON-able, for the identity of stores."""
    return {
        "window": list(window) if window else "auto",
        "version": READER_VERSION,
        "percentiles": [normalise.LOW, normalise.HIGH],
        "plateau": [normalise.PLATEAU_SHARE, normalise.PLATEAU_GAP],
        "few_levels": normalise.FEW_LEVELS,
        "max_pixels": formats.MAX_PIXELS,
        "alpha": "black",
        "nifti": "axial, anterior up, patient's right on the left",
    }


def read_image(
    path: str | os.PathLike,
    frame: int = 0,
    *,
    data: bytes | None = None,
    window: Window | None = None,
) -> np.ndarray:
    """Read one frame as a viewer shows it. Thread-safe.

    Args:
        path: the file, or its URL (also named in errors).
        frame: 0-based page, frame or slice; 0 for files of one image.
        data: content of the file, if it has been read already.
        window: (center, width) of what becomes black to white in CT slices that state no window,
            and in volumes. Default: -1000 to 1000 HU, and the range of the volume.

    Returns:
        (h, w, 3) uint8, upright.

    Raises:
        ImageError: cannot be read, damaged, too large, or no such frame.
        SkippedFile: not an image (DICOMDIR, DICOM object without pixels).
        RemoteError: the server of a URL does not answer, or refuses.
    """
    with _naming(path):
        kind, data = _load(path, data)
        pixels = _backend(kind).read(data, kind, frame)
        if not pixels.display and (pixels.span is not None or kind in VOLUMES or kind == "DICOM"):
            span = pixels.span or _volume_range(kind, _Content(data))
            if window and (pixels.span or kind in VOLUMES):
                span = window[0] - window[1] / 2, window[0] + window[1] / 2
            pixels = replace(pixels, span=span)
        return normalise.to_display(pixels)


def read_mask(
    path: str | os.PathLike | MaskFiles,
    frame: int = 0,
    *,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Read one frame as a region, turned upright by the same rules as an image.

    The region is what is displayed bright, by one threshold for all frames of the file, unless the
    rule of the files says otherwise: see `pipeline.images.region.find_region`.

    Args:
        path, frame: as for `read_image`; or the files of `mask_file`, whose regions are united. A
            volume must lie on the grid of the volume that is its image.
        shape: (height, width) of the image of the mask; another size is an error, unless the rule
            of the files says "resize" and the shape agrees: then the nearest pixels are taken. A
            volume on another grid is resampled by the affines then.

    Returns:
        bool (h, w).

    Raises:
        ImageError: as `read_image`; or another size or grid.
        Ambiguous: an ImageError: the values can be read in two ways.
        ConfigError: the rule of the files is not one.
    """
    truth = path if isinstance(path, MaskFiles) else MaskFiles((path,))
    united, rule = np.zeros(shape or (), bool), MaskRule.parse(truth.rule)
    for file in truth.files:
        own = truth.image and _grid(file)
        other = own and _grid(truth.image)
        if other and not grid.same_grid(own, other):
            if not rule.resize:
                raise grid.another_grid(own, other, file)
            volume, box = _volume_region(file, _version(file), rule)
            if box is not None and grid.lies_outside(box, own, other):
                what = "the region of the mask lies outside its image, by their affines"
                raise ImageError(what, path=file, remedy="correct the affine of the mask")
            mask = grid.resample(volume, own, other, frame)
        else:
            mask = _region_of(file, frame, rule)
        united = united | _sized(file, mask, shape or united.shape or None, rule.resize)
    return united


def _region_of(path: str | os.PathLike, frame: int, rule: MaskRule) -> np.ndarray:
    with _naming(path):
        kind, data = _load(path, None)
        backend = _backend(kind)
        pixels = backend.read(data, kind, frame)
        if len(backend.probe(data, kind)) > 1:
            return _file_region(kind, _Content(data), rule).of(pixels)
        return find_region(lambda: [pixels], rule).of(pixels)


@functools.lru_cache(maxsize=4)  # each slice of an image on another grid asks for all slices
def _volume_region(
    path: Path, version: tuple[int, int] | None, rule: MaskRule
) -> tuple[np.ndarray, np.ndarray | None]:
    with _naming(path):
        kind, data = _load(path, None)
        region = _file_region(kind, _Content(data), rule)
        frames = range(len(_backend(kind).probe(data, kind)))
        volume = np.stack([region.of(_backend(kind).read(data, kind, k)) for k in frames])
    return volume, grid.region_box(volume)


def _version(path: Path) -> tuple[int, int] | None:
    """Return what tells the versions of a file apart, for caches; None for what is no file."""
    with _naming(path):
        if remote.is_url(path):
            return tuple(remote.version(path))
        status = path.stat()
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _grid(path: Path) -> grid.Grid | None:
    """Return the grid of a volume; None for files of other formats, and for what is no file."""
    with _naming(path):
        return _read_grid(path, _version(path))


@functools.lru_cache(maxsize=256)
def _read_grid(path: Path, version: tuple[int, int] | None) -> grid.Grid | None:
    if version is None:
        return None
    with open_bytes(path) as file:
        kind = formats.sniff(file.read(formats.HEAD_BYTES))
        if remote.is_url(path):
            remote.keep(path, file.getvalue())  # read next
    return _backend(kind).grid(_load(path, None)[1], kind) if kind in VOLUMES else None


def _sized(
    path: str | os.PathLike, mask: np.ndarray, shape: tuple[int, int] | None, resize: bool = False
) -> np.ndarray:
    """Return a mask in the size of its image, if it has this size or may be resized to it."""
    if shape is None or mask.shape == tuple(shape):
        return mask
    (height, width), (h, w) = mask.shape, shape
    remedy = "use the mask of this image, in the orientation in which it is displayed"
    if abs(w * height - width * h) <= max(height, width, h, w):  # to a pixel
        if resize:
            rows, columns = (2 * np.arange(n) + 1 for n in shape)  # twice the middles of pixels
            return mask[np.ix_(rows * height // (2 * h), columns * width // (2 * w))]
        remedy = "take masks of the same shape by their nearest pixels with --resize-masks"
    what = f"the mask is {width} x {height}, its upright image {w} x {h}"
    raise ImageError(what, path=path, remedy=remedy)


def image_bytes(path: str | os.PathLike) -> bytes:
    """Return the content of an image file, for the functions that take `data`; ImageError if it
    cannot be read or is not in a supported format."""
    with _naming(path):
        return _load(path, None)[1]


def probe(path: str | os.PathLike, *, data: bytes | None = None) -> list[FrameInfo]:
    """List the frames of a file from its header, without decoding pixels.

    Raises ImageError (not an image, or a damaged header) and SkippedFile, as `read_image`; also
    SkippedFile for DICOM objects that have pixels but are no images of their own, such as
    segmentations, dose grids and localizers.
    """
    with _naming(path):
        kind, data = _load(path, data)
        if kind == "DICOM" and (other := _backend(kind).other_object(data)):
            raise SkippedFile(other, remedy="leave it out of the images")
        sizes = _backend(kind).probe(data, kind)
        return [FrameInfo(frame, *size) for frame, size in enumerate(sizes)]


def to_voxels(
    mask: np.ndarray, path: str | os.PathLike, frame: int = 0, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Map the mask of one NIfTI slice back to the voxels of the file.

    Args:
        mask: bool (h, w), in the orientation of `read_image(path, frame)`; another size, or a file
            that is no NIfTI, is an ImageError.
        path, frame: the NIfTI file and the 0-based slice.
        out: bool voxels of an earlier call, to collect the slices of a volume.

    Returns:
        bool, the shape and axes of the file's array; save it with the affine of the file.
    """
    with _naming(path):
        kind, data = _load(path, None)
        if kind != "NIFTI":
            raise ImageError(f"is {kind}, not NIfTI", remedy="save the mask as it is")
        return _backend(kind).mask_to_voxels(mask, data, frame, out)


def dicom_capture(path: str | os.PathLike, *, data: bytes | None = None) -> str:
    """Return "acquired" for a CT, MR or PET image in DICOM, "secondary" for a secondary capture
    that may be a report on them, which those of ultrasound and films are not; "" for others and
    for what cannot be read."""
    try:
        kind, data = _load(path, data)
        return _backend(kind).capture(data) if kind == "DICOM" else ""
    except Exception:
        return ""


def patient_code(path: str | os.PathLike, *, data: bytes | None = None) -> str:
    """Return "p" and 16 hexadecimal digits that identify the patient of a DICOM file.

    The code is a hash of the patient id and its issuer, or of the study id if there is no patient
    id. With a secret in the environment variable `PIPELINE_PATIENT_KEY` (any text) it is keyed
    BLAKE2b: ids cannot be guessed without the key. Otherwise it is scrypt with a public salt, slow
    by design: trying all 7-digit ids takes days, but whether one suspected id is in the data can
    be checked at once.

    Returns:
        "" if the file is not DICOM, has no id or cannot be read (reading it reports that).
    """
    try:
        kind, data = _load(path, data)
        if kind != "DICOM":
            return ""
        tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
        header = _backend(kind).parse(data, tags)
        patient, issuer, study = (str(header.get(tag) or "").strip() for tag in tags)
    except Exception:
        return ""
    if not (patient or study):
        return ""
    text = f"patient\0{issuer}\0{patient}" if patient else f"study\0{study}"
    return "p" + _hash(text.encode(), os.environ.get("PIPELINE_PATIENT_KEY", "").encode())


@functools.lru_cache(maxsize=2**16)
def _hash(text: bytes, secret: bytes) -> str:
    if not secret:
        return hashlib.scrypt(text, salt=SALT, n=2**12, r=8, p=1, dklen=8).hex()  # about 30 ms
    key = hashlib.blake2b(secret, digest_size=32).digest()
    return hashlib.blake2b(text, key=key, digest_size=8).hexdigest()


def bytes_changed(path: str | os.PathLike) -> ImageError:
    """Return the error for a file whose hash is not that in the manifest."""
    what = "its bytes changed since the manifest was made"
    return ImageError(what, path=path, remedy="run: pipeline data refresh")


def unreadable(path: str | os.PathLike, error: OSError) -> ImageError:
    """Return an error of the operating system as an ImageError with a remedy."""
    if isinstance(error, FileNotFoundError):
        link = not remote.is_url(path) and Path(path).is_symlink()
        what = "is a broken link" if link else "does not exist"
        remedy = "check its name; if it is gone, restore it or run `pipeline data add` again"
    elif isinstance(error, PermissionError):
        what, remedy = "may not be read (permission denied)", "run chmod u+r on it"
    else:
        what, remedy = f"cannot be read ({os.strerror(error.errno or 0)})", "check the disk"
    return ImageError(what, remedy=remedy, path=path)


class _Content(tuple):
    """The length and hash of a file's bytes, and the bytes until the cached function that has this
    as an argument takes them away: the cache holds no volumes of gigabytes."""

    def __new__(cls, data: bytes) -> Self:
        self = super().__new__(cls, (len(data), hash(data)))
        self.data = data
        return self

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data


@functools.lru_cache(maxsize=8)  # for the next frames of the files that are being read
def _volume_range(kind: str, content: _Content) -> tuple[float, float] | None:
    """Return the range of a file of several slices; None for one."""
    data = content.take()
    count = len(_backend(kind).probe(data, kind))
    return normalise.volume_range(_frames(kind, data), count) if count > 1 else None


@functools.lru_cache(maxsize=8)
def _file_region(kind: str, content: _Content, rule: MaskRule) -> Region:
    """Return how all frames of a file become regions."""
    data = content.take()
    return find_region(lambda: _frames(kind, data), rule)


def _frames(kind: str, data: bytes) -> Iterator[Pixels]:
    for frame in range(len(_backend(kind).probe(data, kind))):
        with contextlib.suppress(Exception):  # a damaged frame raises when it is read itself
            yield _backend(kind).read(data, kind, frame)


def _backend(kind: str) -> ModuleType:
    """Return the module that reads a format, imported on first use: some take a second.

    Each has `probe(data, kind)`, which lists the (width, height) of all frames, and
    `read(data, kind, frame)`, which decodes one of them. Both raise an `ImageError` without a
    path (no such frame, truncated, too large, not supported), or any exception of the decoder.
    """
    return importlib.import_module(f"pipeline.images.{_BACKENDS.get(kind, 'raster')}")


def _load(path: str | os.PathLike, data: bytes | None) -> tuple[str, bytes]:
    """Return the format and the content of a file."""
    if data is None and remote.is_url(path):
        data = open_bytes(path).read()
    if data is None:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device may block for ever
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise ImageError(f"is {what}, not a file", remedy="pass an image file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"is larger than {MAX_BYTES:,} bytes", remedy="cut it into pieces")
        data = Path(path).read_bytes()
    return formats.sniff(data[: formats.HEAD_BYTES]), data


@contextlib.contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """Turn any failure into an `ImageError` with the path.

    Messages of the decoders are dropped: those about DICOM may quote the header.
    """
    try:
        yield
    except (ImageError, RemoteError) as error:
        error.path = error.path or path
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.errno is not None or remote.is_url(path)):
            found = unreadable(path, error)
        elif isinstance(error, MemoryError):
            found = ImageError("does not fit into memory", remedy="make it smaller", path=path)
        else:
            problem, remedy = f"is damaged or truncated ({type(error).__name__})", AGAIN
            if isinstance(error, NotImplementedError | ImportError):
                problem, remedy = "uses a feature that is not supported", "save it as PNG or TIFF"
            found = ImageError(problem, remedy=f"{remedy}, or remove it", path=path)
        raise found from None
