"""NIfTI through nibabel: slices in one display orientation, whatever the file's axes.

A volume is shown in axial slices (frame 0 is the lowest), anterior up and the patient's right on
the left of the picture. A volume of one slice is shown in its own plane, head or anterior up.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
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
KEEP_BYTES = 2**29  # the last unpacked volume is kept up to this size, for its next slice
AGAIN = "copy or export it again"


@dataclass(frozen=True)
class Plane:
    """How a display slice lies in the file's voxels.

    Attributes:
        axis: the file axis across the slices.
        flip: whether frame 0 is the last index of `axis`.
        transpose: whether the display's columns come before its rows in the file.
        up, left: whether the file's order along rows and columns is turned round for display.
    """

    axis: int
    flip: bool
    transpose: bool
    up: bool
    left: bool

    def index(self, frame: int, count: int) -> int:
        """Return the file index along `axis` of a frame."""
        return count - 1 - frame if self.flip else frame

    def show(self, voxels: np.ndarray) -> np.ndarray:
        """Turn a slice (two file axes) into display rows and columns."""
        voxels = voxels.T if self.transpose else voxels
        voxels = voxels[::-1] if self.up else voxels
        return voxels[:, ::-1] if self.left else voxels

    def store(self, shown: np.ndarray) -> np.ndarray:
        """The inverse of `show`."""
        shown = shown[:, ::-1] if self.left else shown
        shown = shown[::-1] if self.up else shown
        return shown.T if self.transpose else shown


def probe_nifti(data: bytes, kind: str) -> list[FrameInfo]:
    """List the slices from the header."""
    image, plane = _open(data)
    rows, columns = plane.show(np.empty(_slice_shape(image, plane), np.uint8)).shape
    return [FrameInfo(k, columns, rows) for k in range(_shape(image)[plane.axis])]


def read_nifti(data: bytes, kind: str, frame: int) -> Pixels:
    """Read one slice, scaled by slope and intercept; NaN and infinities are counted and black.

    Args:
        data: the file's bytes, gzipped or not.
        kind: "NIFTI".
        frame: the slice, counted from 0.

    Returns:
        Values of (h, w) in the file's own dtype, floats where it is scaled; of RGB voxels
        (h, w, 3) uint8, of RGBA ones with their alpha apart.

    Raises:
        ImageError: no such slice; several volumes, complex numbers, a broken orientation or gzip,
            or too large.
        Exception: of the decoder, for damaged bytes; `read_image` makes an ImageError of it.
    """
    image, plane = _open(data)
    count = _shape(image)[plane.axis]
    if not 0 <= frame < count:
        raise ImageError(f"has no slice {frame}: it holds {count}", remedy="slices are 0-based")
    cut: list[slice | int] = [slice(None)] * len(image.shape)
    if plane.axis < len(cut):
        cut[plane.axis] = plane.index(frame, count)
    cut[3:] = [0] * len(cut[3:])
    voxels = np.asanyarray(image.dataobj[tuple(cut)])
    if voxels.dtype.names:
        channels = [plane.show(voxels[name]) for name in voxels.dtype.names]
        if len(channels) == 4 and not np.asanyarray(image.dataobj)[voxels.dtype.names[3]].any():
            channels = channels[:3]  # an alpha that was never set, in the whole volume
        return replace(split_alpha(np.stack(channels, axis=-1)), display=True)
    values = np.ascontiguousarray(plane.show(voxels))
    return Pixels(values, display=values.dtype == np.uint8)


def mask_to_voxels(
    mask: np.ndarray, data: bytes, frame: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Write a display mask into voxels of the file's own shape and axes.

    Args:
        mask: bool (h, w), as the slice is shown.
        data: the file's bytes.
        frame: the slice, counted from 0.
        out: bool voxels of an earlier call, written into; None = all False.

    Returns:
        bool, of the file's shape.

    Raises:
        ImageError: no such slice, the mask is not of its size, `out` not of the file's shape, or
            the file cannot be read (see `read_nifti`).
    """
    image, plane = _open(data)
    shape = _shape(image)
    stored = plane.store(np.asarray(mask, bool))
    if stored.shape != _slice_shape(image, plane):
        rows, columns = plane.show(np.empty(_slice_shape(image, plane), np.uint8)).shape
        raise ImageError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]}, its slice {columns} x {rows}",
            remedy="give the mask of this very slice",
        )
    if not 0 <= frame < shape[plane.axis]:
        raise ImageError(f"has no slice {frame}", remedy="slices are 0-based")
    voxels = np.zeros(image.shape, bool) if out is None else out
    if voxels.shape != tuple(image.shape):
        raise ImageError("`out` has another shape than the file", remedy="pass zeros of its shape")
    cut: list[slice | int] = [slice(None)] * 3
    cut[plane.axis] = plane.index(frame, shape[plane.axis])
    voxels.reshape(shape)[tuple(cut)] = stored
    return voxels


def _open(data: bytes) -> tuple[nib.Nifti1Image, Plane]:
    data = _unpacked(data)
    image = (nib.Nifti2Image if data[:4] in _SECOND else nib.Nifti1Image).from_bytes(data)
    shape = tuple(image.shape)
    if len(shape) > 3 and any(n != 1 for n in shape[3:]):
        count = int(np.prod(shape[3:]))
        raise ImageError(
            f"holds {count} volumes ({len(shape)}-dimensional)",
            remedy="split it into single volumes, e.g. with `fslsplit` or nibabel.four_to_three",
        )
    ornt = io_orientation(image.affine)
    if not np.isfinite(ornt).all():
        raise ImageError("has a broken orientation (affine)", remedy="mend its sform or qform")
    plane = _plane(_shape(image), ornt)
    rows, columns = _slice_shape(image, plane)
    check_size(columns, rows)
    if image.get_data_dtype().kind == "c":
        raise ImageError("holds complex numbers", remedy="save their magnitude")
    return image, plane


_SECOND = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")


def _plane(shape: tuple[int, ...], ornt: np.ndarray) -> Plane:
    to_canonical = ornt[:, 0].astype(int)  # file axis -> canonical axis (x right, y front, z up)
    rising = ornt[:, 1] > 0
    thin = [axis for axis in range(3) if shape[axis] == 1]
    axis = thin[0] if len(thin) == 1 else int(np.flatnonzero(to_canonical == AXIAL)[0])
    rest = [a for a in range(3) if a != axis]
    row_axis, column_axis = sorted(rest, key=lambda a: -to_canonical[a])
    # Front, head and the patient's right come first in the picture: the falling direction.
    return Plane(
        axis=axis,
        flip=not rising[axis],
        transpose=row_axis > column_axis,
        up=bool(rising[row_axis]),
        left=bool(rising[column_axis]),
    )


def _shape(image: nib.Nifti1Image) -> tuple[int, ...]:
    return (*image.shape, 1, 1, 1)[:3]


def _slice_shape(image: nib.Nifti1Image, plane: Plane) -> tuple[int, ...]:
    return tuple(n for axis, n in enumerate(_shape(image)) if axis != plane.axis)


def _unpacked(data: bytes) -> bytes:
    """Return the bytes of the .nii, unpacked (and so checked by its CRC) if need be."""
    if data[:2] == b"\x1f\x8b":
        data = _GUNZIP(data)
    if len(data) < 352:
        raise ImageError("is too short for a NIfTI file", remedy=AGAIN)
    needed = _needed(data)
    if needed > len(data):
        raise ImageError(f"is cut short: {len(data):,} of {needed:,} bytes", remedy=AGAIN)
    return data


def _needed(head: bytes) -> int:
    """Return the bytes that the header promises, checked against the limit."""
    second = head[:4] in _SECOND
    try:
        kind = nib.Nifti2Header if second else nib.Nifti1Header
        header = kind(head[: 540 if second else 348], check=False)
        count = 1
        for n in header.get_data_shape():
            count *= int(n)
        bits = header.get_data_dtype().itemsize * 8
        needed = int(header["vox_offset"]) + count * bits // 8
        single = bytes(header["magic"])[:2] in (b"n+",)
    except Exception:
        raise ImageError("has no NIfTI header inside", remedy="save it as NIfTI or PNG") from None
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


class _Gunzip:
    """Unpacks gzip within the size that the NIfTI header promises; keeps the last volume."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key, self._volume = b"", b""

    def __call__(self, data: bytes) -> bytes:
        key = hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:  # threads that want slices of one volume wait for one unpacking
            if key == self._key:
                return self._volume
            volume = self._unpack(data)
            if len(volume) <= KEEP_BYTES:
                self._key, self._volume = key, volume
            return volume

    def _unpack(self, data: bytes) -> bytes:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            head = file.read(540)
            if len(head) < 352:
                raise ImageError("is a gzip file without NIfTI in it", remedy="unpack it")
            needed = _needed(head)
            if needed > 1100 * len(data) + 540:  # no gzip packs tighter
                raise ImageError("is cut short", remedy=AGAIN)
            volume = head + file.read(max(0, needed - len(head)))
            trailing = 0
            while block := file.read(2**20):  # to the end, where the checksum is
                trailing += len(block)
                if trailing > 2**26:
                    raise ImageError("unpacks to far more than its header says", remedy=AGAIN)
            return volume


_GUNZIP = _Gunzip()
