"""One reader for every image: any supported file -> the array that all stages and reports see.

The rules, in one place (`reader_rules` puts them into the identity of every store):
content decides the format, never the name; EXIF and TIFF orientations are applied, so sizes are
of the upright frame; 8-bit samples pass unchanged; deeper ones are scaled by robust percentiles
of their own frame; transparency is composed on black, padding and NaN are black; DICOM runs
modality LUT, VOI, then one inversion for MONOCHROME1; NIfTI is shown in the closest axial
orientation. Every failure is an `ImageError` that names the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import ImageError
from pipeline.images import normalise
from pipeline.images.kinds import HEAD_BYTES, sniff
from pipeline.images.normalise import to_display
from pipeline.images.raster import probe_raster, read_raster
from pipeline.images.region import Cuts, cut_region, find_cut
from pipeline.images.types import MAX_FILE_BYTES, MAX_PIXELS, FrameInfo, Pixels

READER_VERSION = "6"

Result = TypeVar("Result")
_CUTS = Cuts()


def reader_rules() -> dict[str, Any]:
    """Return what decides the content of `read_image`, for a store's identity (JSON)."""
    return {
        "version": READER_VERSION,
        "percentiles": [normalise.LOW, normalise.HIGH],
        "plateau": [normalise.PLATEAU_SHARE, normalise.PLATEAU_GAP],
        "few_levels": normalise.FEW_LEVELS,
        "max_pixels": MAX_PIXELS,
        "alpha": "black",
        "nifti": "axial, anterior up, patient's right on the left",
    }


def read_image(path: str | os.PathLike, frame: int = 0, *, data: bytes | None = None) -> np.ndarray:
    """Read one frame as a viewer shows it.

    Args:
        path: the file (also for messages).
        frame: page, frame or slice; 0 for files of one picture.
        data: the file's bytes, if they were read already.

    Returns:
        (h, w, 3) uint8, upright. Safe to call from many threads.

    Raises:
        ImageError: the file cannot be read, is damaged, too large, or has no such frame.
        SkippedFile: it is no picture (DICOMDIR, DICOM object without pixels).
    """
    return _guarded(path, lambda: to_display(_pixels(path, frame, data)))


def inspect_image(path: str | os.PathLike, frame: int = 0) -> tuple[np.ndarray, list[str]]:
    """Read one frame as `read_image` does, and say what was done to its samples.

    Returns:
        The (h, w, 3) uint8 image, and remarks: the range that was scaled, padding, NaN.
    """

    def read() -> tuple[np.ndarray, list[str]]:
        pixels = _pixels(path, frame, None)
        return to_display(pixels), normalise.remarks(pixels)

    return _guarded(path, read)


def read_mask(
    path: str | os.PathLike,
    frame: int = 0,
    *,
    shape: tuple[int, int] | None = None,
    data: bytes | None = None,
) -> np.ndarray:
    """Read one frame as a region, turned upright by the same rules as an image.

    The region is what is shown bright, by one cut for all frames of the file, which the levels
    of the file decide: the upper one of two; every label but zero; above 127 with smooth edges
    (above half of the file's largest for deep samples); above 0.5 of probabilities (fractions up
    to 1). JPEG and WebP are always cut at 127, so that coding noise is no region; in a palette,
    all but black counts. An 8-bit file of few low numbers is a label map, whatever it was meant
    to be: store probabilities as floats. See `pipeline.images.region.find_cut`.

    Args:
        path: the file.
        frame: page, frame or slice.
        shape: (height, width) of the image it belongs to; another size is an error.
        data: the file's bytes, if they were read already.

    Returns:
        bool (h, w).

    Raises:
        ImageError: as `read_image`; the size is not `shape`; or the samples are neither labels
            nor a mask with smooth edges nor probabilities.
    """

    def read() -> np.ndarray:
        mask = _region(path, frame, data)
        if shape is not None and mask.shape != tuple(shape):
            raise ImageError(
                f"the mask is {mask.shape[1]} x {mask.shape[0]}, "
                f"its upright image {shape[1]} x {shape[0]}",
                remedy="give the mask of this very image, turned as the image is shown",
            )
        return mask

    return _guarded(path, read)


def probe(path: str | os.PathLike) -> list[FrameInfo]:
    """List the frames of a file from its header; pixels are not decoded.

    Raises:
        ImageError: no image, or its header is damaged.
        SkippedFile: DICOMDIR, or a DICOM object without pixels.
    """

    def read() -> list[FrameInfo]:
        kind, data = _load(path, None)
        return _backend(kind)[0](data, kind)

    return _guarded(path, read)


def to_voxels(
    mask: np.ndarray,
    path: str | os.PathLike,
    frame: int = 0,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Map the mask of one NIfTI slice back to the file's voxels.

    Args:
        mask: bool (h, w), as `read_image(path, frame)` is turned.
        path: the NIfTI file that the slice came from.
        frame: the slice.
        out: bool voxels of an earlier call, to collect the slices of a volume.

    Returns:
        bool, the shape and axes of the file's array; save it with the file's own affine.

    Raises:
        ImageError: no NIfTI file, or the mask is not of the slice's size.
    """

    def work() -> np.ndarray:
        kind, data = _load(path, None)
        if kind != "NIFTI":
            raise ImageError(f"is {kind}, not NIfTI", remedy="its masks are stored upright as is")
        from pipeline.images.nifti import mask_to_voxels

        return mask_to_voxels(mask, data, frame, out)

    return _guarded(path, work)


def _pixels(path: str | os.PathLike, frame: int, data: bytes | None) -> Pixels:
    kind, data = _load(path, data)
    return _backend(kind)[1](data, kind, frame)


def _region(path: str | os.PathLike, frame: int, data: bytes | None) -> np.ndarray:
    kind, data = _load(path, data)
    probe_frames, read_frame = _backend(kind)
    pixels = read_frame(data, kind, frame)
    many = kind in ("TIFF", "DICOM", "NIFTI") and pixels.threshold == "auto"
    if not many or len(infos := probe_frames(data, kind)) == 1:
        return cut_region(pixels, *find_cut(lambda: [pixels]))

    def frames() -> Iterator[Pixels]:
        for info in infos:
            try:
                yield read_frame(data, kind, info.frame)
            except Exception:  # a damaged frame fails when it is read itself
                continue

    return cut_region(pixels, *_CUTS(data, frames))


def _backend(kind: str) -> tuple[Callable, Callable]:
    """Return (probe, read) of a format."""
    # Imported when met: most data sets need one of them, and pydicom and nibabel take a second.
    if kind == "TIFF":
        from pipeline.images.tiff import probe_tiff, read_tiff

        return probe_tiff, read_tiff
    if kind == "DICOM":
        from pipeline.images.dicom import probe_dicom, read_dicom

        return probe_dicom, read_dicom
    if kind == "NIFTI":
        from pipeline.images.nifti import probe_nifti, read_nifti

        return probe_nifti, read_nifti
    return probe_raster, read_raster


def _load(path: str | os.PathLike, data: bytes | None) -> tuple[str, bytes]:
    if data is None:
        data = _bytes(Path(path))
    return sniff(data[:HEAD_BYTES]), data


def _bytes(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe or device would wait for ever
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ImageError(f"is {what}, not a file", remedy="give the image file itself")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(
            f"is larger than {MAX_FILE_BYTES:,} bytes", remedy="cut it into smaller files"
        )
    return path.read_bytes()


def _guarded(path: str | os.PathLike, read: Callable[[], Result]) -> Result:
    """Run a reader; whatever goes wrong becomes an `ImageError` with the path.

    Text of the decoders is not passed on: that of DICOM may quote the header.
    """
    try:
        return read()
    except ImageError as error:
        if error.path is None:
            error.path = path
        raise
    except MemoryError:
        problem, remedy = "does not fit into the memory", "make it smaller or cut it into tiles"
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a decoder written in Rust is no Exception
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        problem = f"is damaged or cut short ({type(error).__name__})"
        remedy = "copy or export it again, or take it out of the data set"
    raise ImageError(problem, remedy=remedy, path=path) from None


def bytes_changed(path: str | os.PathLike) -> ImageError:
    """Return the error of a file that is not the one the manifest lists, with its remedy."""
    return ImageError(
        "its bytes changed since the manifest was made",
        path=path,
        remedy="run: pipeline data refresh",
    )


def unreadable(path: str | os.PathLike, error: OSError) -> ImageError:
    """Return what the system said of a file, as an error with its remedy."""
    if isinstance(error, FileNotFoundError):
        what = "is a link to nothing" if Path(path).is_symlink() else "does not exist"
        remedy = "check its name; if it is gone, restore it or run `pipeline data add` again"
    elif isinstance(error, PermissionError):
        what, remedy = "may not be read (permission denied)", "run chmod u+r on it"
    else:
        what, remedy = f"cannot be read ({os.strerror(error.errno or 0)})", "check the disk"
    return ImageError(what, remedy=remedy, path=path)
