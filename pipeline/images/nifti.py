"""NIfTI through nibabel: slices in one display orientation, whatever the axes of the file.

A volume is shown in axial slices (frame 0 is the lowest), anterior up, the patient's right on the
left of the image. A volume of one slice is shown in its own plane, superior or anterior up.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import threading
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from pipeline.errors import ImageError
from pipeline.images.raster import split_alpha
from pipeline.images.types import MAX_VOLUME_BYTES, FrameInfo, Pixels, check_size

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)

AXIAL = 2
KEEP_BYTES = 2**29  # the last volume is kept uncompressed up to this size, for its next slice
AGAIN = "copy or export it again"
_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")


@dataclass(frozen=True)
class Plane:
    """How a display slice lies in the voxels of the file.

    Attributes:
        axis: file axis perpendicular to the slices.
        flip: frame 0 is the last index of `axis`.
        transpose: in the file, the columns of the display come before its rows.
        up, left: rows or columns are in reverse order in the file.
    """

    axis: int
    flip: bool
    transpose: bool
    up: bool
    left: bool

    def cut(self, frame: int, shape: tuple[int, ...]) -> tuple[slice | int, ...]:
        """Return the index of a frame in an array of `shape` (3 axes)."""
        count = shape[self.axis]
        if not 0 <= frame < count:
            raise ImageError(f"has no slice {frame} (it has {count})", remedy="slices are 0-based")
        index = count - 1 - frame if self.flip else frame
        return tuple(index if axis == self.axis else slice(None) for axis in range(3))

    def show(self, voxels: np.ndarray) -> np.ndarray:
        """Return a slice (two file axes) as rows and columns of the display."""
        voxels = voxels.T if self.transpose else voxels
        voxels = voxels[::-1] if self.up else voxels
        return voxels[:, ::-1] if self.left else voxels

    def store(self, shown: np.ndarray) -> np.ndarray:
        """Return the inverse of `show`."""
        shown = shown[:, ::-1] if self.left else shown
        shown = shown[::-1] if self.up else shown
        return shown.T if self.transpose else shown

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return (height, width) of the slices of a volume."""
        first, second = (n for axis, n in enumerate(shape) if axis != self.axis)
        return (second, first) if self.transpose else (first, second)


def probe_nifti(data: bytes, kind: str) -> list[FrameInfo]:
    """List the slices, from the header."""
    image, plane = _open(data)
    height, width = plane.size(_shape(image))
    return [FrameInfo(k, width, height) for k in range(_shape(image)[plane.axis])]


def read_nifti(data: bytes, kind: str, frame: int) -> Pixels:
    """Read one slice, scaled by slope and intercept.

    Args:
        data: content of the file, gzipped or not.
        kind: "NIFTI".
        frame: 0-based slice.

    Returns:
        Values (h, w) in the dtype of the file, floats if scaled; of RGB voxels (h, w, 3) uint8, of
        RGBA voxels with separate alpha.

    Raises:
        ImageError: no such slice, several volumes, complex numbers, a broken orientation or gzip
            stream, or too large.
        Exception: of the decoder, on damaged data; `read_image` converts it to an ImageError.
    """
    image, plane = _open(data)
    cut = (*plane.cut(frame, _shape(image)), *[0] * len(image.shape[3:]))
    voxels = np.asanyarray(image.dataobj[cut[: len(image.shape)]])
    if voxels.dtype.names:
        channels = [plane.show(voxels[name]) for name in voxels.dtype.names]
        if len(channels) == 4 and not np.asanyarray(image.dataobj)[voxels.dtype.names[3]].any():
            channels = channels[:3]  # an alpha that was never set, in the entire volume
        return replace(split_alpha(np.stack(channels, axis=-1)), display=True)
    values = np.ascontiguousarray(plane.show(voxels))
    return Pixels(values, display=values.dtype == np.uint8)


def mask_to_voxels(
    mask: np.ndarray, data: bytes, frame: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Write the mask of a displayed slice into voxels of the shape and axes of the file.

    Args:
        mask: bool (h, w), as the slice is displayed.
        data: content of the file.
        frame: 0-based slice.
        out: bool voxels of an earlier call, written in place; None = all False.

    Returns:
        bool, the shape of the file's array.

    Raises:
        ImageError: no such slice, `mask` or `out` has another shape than the slice or the file, or
            the file cannot be read (see `read_nifti`).
    """
    image, plane = _open(data)
    shape = _shape(image)
    height, width = plane.size(shape)
    if mask.shape != (height, width):
        raise ImageError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]}, its slice {width} x {height}",
            remedy="use the mask of this slice",
        )
    voxels = np.zeros(image.shape, bool) if out is None else out
    if voxels.shape != tuple(image.shape):
        raise ImageError("`out` has another shape than the file", remedy="pass zeros of its shape")
    voxels.reshape(shape)[plane.cut(frame, shape)] = plane.store(np.asarray(mask, bool))
    return voxels


def _open(data: bytes) -> tuple[nib.Nifti1Image, Plane]:
    data = _uncompressed(data)
    image = (nib.Nifti2Image if data[:4] in _NIFTI2 else nib.Nifti1Image).from_bytes(data)
    if (count := math.prod(image.shape[3:])) != 1:
        raise ImageError(
            f"has {count} volumes ({len(image.shape)} dimensions)",
            remedy="split it into single volumes, e.g. with `fslsplit` or nibabel.four_to_three",
        )
    orientation = io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        raise ImageError("has a broken orientation (affine)", remedy="correct its sform or qform")
    plane = _plane(_shape(image), orientation)
    height, width = plane.size(_shape(image))
    check_size(width, height)
    if image.get_data_dtype().kind == "c":
        raise ImageError("has complex values", remedy="save their magnitude")
    return image, plane


def _plane(shape: tuple[int, ...], orientation: np.ndarray) -> Plane:
    to_canonical = orientation[:, 0].astype(int)  # file axis -> x right, y anterior, z superior
    rising = orientation[:, 1] > 0
    thin = [axis for axis in range(3) if shape[axis] == 1]
    axis = thin[0] if len(thin) == 1 else int(np.flatnonzero(to_canonical == AXIAL)[0])
    rest = [a for a in range(3) if a != axis]
    row_axis, column_axis = sorted(rest, key=lambda a: -to_canonical[a])
    # The display starts at anterior or superior and at the patient's right: decreasing order.
    return Plane(
        axis=axis,
        flip=not rising[axis],
        transpose=row_axis > column_axis,
        up=bool(rising[row_axis]),
        left=bool(rising[column_axis]),
    )


def _shape(image: nib.Nifti1Image) -> tuple[int, ...]:
    return (*image.shape, 1, 1, 1)[:3]


def _uncompressed(data: bytes) -> bytes:
    """Return the content of the .nii; a gzip stream is checked by its CRC."""
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data)
    if len(data) < 352:
        raise ImageError("is too short for a NIfTI file", remedy=AGAIN)
    needed = _needed(data)
    if needed > len(data):
        raise ImageError(f"is truncated: {len(data):,} of {needed:,} bytes", remedy=AGAIN)
    return data


def _needed(head: bytes) -> int:
    """Return the size of the file by its header, at most `MAX_VOLUME_BYTES`."""
    second = head[:4] in _NIFTI2
    try:
        kind = nib.Nifti2Header if second else nib.Nifti1Header
        header = kind(head[: 540 if second else 348], check=False)
        count = math.prod(int(n) for n in header.get_data_shape())
        needed = int(header["vox_offset"]) + count * header.get_data_dtype().itemsize
        single = bytes(header["magic"]).startswith(b"n+")
    except Exception:
        raise ImageError("has no NIfTI header", remedy="save it as NIfTI or PNG") from None
    if not single:
        raise ImageError(
            "is half of a .hdr/.img pair", remedy="save it as one file (.nii), e.g. with nibabel"
        )
    if count < 1:
        raise ImageError("has no voxels", remedy=AGAIN)
    if needed > MAX_VOLUME_BYTES:
        raise ImageError(
            f"needs {needed:,} bytes, the limit is {MAX_VOLUME_BYTES:,}",
            remedy="cut the volume into smaller ones",
        )
    return needed


_LAST: dict[bytes, bytes] = {}  # the last volume, by the hash of its gzip stream
_LOCK = threading.Lock()


def _gunzip(data: bytes) -> bytes:
    key = hashlib.blake2b(data, digest_size=16).digest()
    with _LOCK:  # threads that read slices of one volume wait for one decompression
        if key not in _LAST:
            volume = _gunzip_limited(data)
            if len(volume) > KEEP_BYTES:
                return volume
            _LAST.clear()
            _LAST[key] = volume
        return _LAST[key]


def _gunzip_limited(data: bytes) -> bytes:
    """Decompress as much as the NIfTI header states, and check the CRC at the end."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        head = file.read(540)
        if len(head) < 352:
            raise ImageError("is a gzip file without NIfTI in it", remedy="unpack it")
        needed = _needed(head)
        if needed > 1100 * len(data) + 540:  # more than the maximum compression of gzip
            raise ImageError("is truncated", remedy=AGAIN)
        volume = head + file.read(max(0, needed - len(head)))
        trailing = 0
        while block := file.read(2**20):
            trailing += len(block)
            if trailing > 2**26:
                raise ImageError("is much larger than its header states", remedy=AGAIN)
        return volume
