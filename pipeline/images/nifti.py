"""NIfTI through nibabel, MHA and NRRD through SimpleITK: slices in one display orientation,
whatever the axes of the file.

A volume is shown in axial slices (frame 0 is the lowest), anterior up, the patient's right on the
left. A volume of one slice is shown in its own plane, superior or anterior up.
"""

from __future__ import annotations

import functools
import gzip
import io
import logging
import math
import re
import tempfile
import threading
from dataclasses import replace
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from pipeline.errors import ImageError
from pipeline.images.formats import AGAIN, MAX_BYTES, Pixels, check_frame, check_size
from pipeline.images.grid import Grid
from pipeline.images.raster import split_alpha

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)

AXIAL = 2
HEADER = 2**14  # bytes in which MHA and NRRD say where their voxels are
MAX_TRAILING = 2**26  # bytes after the voxels of a gzipped file
_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
_LOCK = threading.Lock()


def probe(data: bytes, kind: str) -> list[tuple[int, int]]:
    """List the sizes of the slices, from the header."""
    frames, height, width = _open(data, kind)[2]
    return [(width, height)] * frames


def read(data: bytes, kind: str, frame: int) -> Pixels:
    """Read one slice in the dtype of the file, as floats if it has a slope or intercept."""
    image, display, sizes = _open(data, kind)
    check_frame(frame, sizes[0])
    axis = int(np.flatnonzero(display[:, 0] == 0)[0])
    at = frame if display[axis, 1] > 0 else sizes[0] - 1 - frame
    slab = [slice(None)] * 3 + [0] * len(image.voxels.shape[3:])
    slab[axis] = slice(at, at + 1)
    voxels = np.asanyarray(image.voxels[tuple(slab[: len(image.voxels.shape)])])
    shown = apply_orientation(voxels.reshape((*voxels.shape, 1, 1)[:3]), display)[0]
    if shown.dtype.names:
        channels = [shown[name] for name in shown.dtype.names]
        if len(channels) == 4 and not np.asanyarray(image.voxels)[shown.dtype.names[3]].any():
            channels = channels[:3]  # an alpha that was never set, in the entire volume
        return replace(split_alpha(np.stack(channels, axis=-1)), display=True)
    return Pixels(np.ascontiguousarray(shown), display=shown.dtype == np.uint8)


def grid(data: bytes, kind: str) -> Grid:
    """Return where the displayed slices lie."""
    image, display, sizes = _open(data, kind)
    shape = (*image.voxels.shape, 1, 1, 1)[:3]
    return Grid(sizes, image.affine @ inv_ornt_aff(display, shape))


def mask_to_voxels(
    mask: np.ndarray, data: bytes, frame: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Write the mask of a displayed slice into voxels of the file; see `to_voxels`."""
    image, display, (frames, height, width) = _open(data)
    check_frame(frame, frames)
    if mask.shape != (height, width):
        sizes = f"{mask.shape[1]} x {mask.shape[0]}, its slice {width} x {height}"
        raise ImageError(f"the mask is {sizes}", remedy="use the mask of this slice")
    voxels = np.zeros(image.voxels.shape, bool) if out is None else out
    # A view: what is written to it is in `voxels`.
    apply_orientation(voxels.reshape((*voxels.shape, 1, 1)[:3]), display)[frame] = mask
    return voxels


class Volume(NamedTuple):
    """Voxels, an array or one of nibabel that is read on access; and the affine (4, 4) to RAS."""

    voxels: Any
    affine: np.ndarray


def _open(data: bytes, kind: str = "NIFTI") -> tuple[Volume, np.ndarray, tuple[int, int, int]]:
    """Return the volume and how it is displayed.

    That is the orientation (3, 2) of its axes in the display (nibabel's: the display axis, of
    frames, rows and columns, and -1 if it is reversed), and the sizes of the display axes.
    """
    if kind == "NIFTI":
        image = _nifti(data)
    else:
        with _LOCK:
            image = _through_itk(data, kind)
    shape = image.voxels.shape
    if (count := math.prod(shape[3:])) != 1:
        split = "split it into single volumes, e.g. with `fslsplit` or nibabel.four_to_three"
        raise ImageError(f"has {count} volumes ({len(shape)} dimensions)", remedy=split)
    if image.voxels.dtype.kind == "c":
        raise ImageError("has complex values", remedy="save their magnitude")
    orientation = io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        raise ImageError("has a broken orientation (affine)", remedy="correct its sform or qform")
    to_canonical = orientation[:, 0].astype(int)  # file axis -> x right, y anterior, z superior
    shape = (*shape, 1, 1, 1)[:3]
    thin = [axis for axis in range(3) if shape[axis] == 1]
    axis = thin[0] if len(thin) == 1 else int(np.flatnonzero(to_canonical == AXIAL)[0])
    row, column = sorted({0, 1, 2} - {axis}, key=lambda a: -to_canonical[a])
    # Frames start at the bottom; rows and columns, at anterior or superior and at the patient's
    # right, in decreasing order.
    order = [axis, row, column]
    display = np.empty((3, 2))
    display[order, 0] = 0, 1, 2
    display[order, 1] = orientation[order, 1] * (1, -1, -1)
    sizes = shape[axis], shape[row], shape[column]
    check_size(sizes[2], sizes[1])
    return image, display, sizes


def _nifti(data: bytes) -> Volume:
    if data[:2] == b"\x1f\x8b":
        with _LOCK:  # threads that read slices of one volume wait for one decompression
            data = _gunzip(data)
    needed = _needed(data)
    if needed > len(data):
        raise ImageError(f"is truncated: {len(data):,} of {needed:,} bytes", remedy=AGAIN)
    image = (nib.Nifti2Image if data[:4] in _NIFTI2 else nib.Nifti1Image).from_bytes(data)
    return Volume(image.dataobj, image.affine)


@functools.lru_cache(maxsize=2)  # for the next slice of the volume
def _through_itk(data: bytes, kind: str) -> Volume:
    """Read MHA or NRRD; its physical axes (LPS) become those of NIfTI (RAS)."""
    try:
        import SimpleITK as sitk
    except ImportError:
        what, how = f"is {kind}, for which SimpleITK is needed", "pip install SimpleITK, or save it"
        raise ImageError(what, remedy=f"{how} as NIfTI") from None
    head = data[:HEADER].decode("latin-1")
    where = re.search(r"(?im)^(?:ElementDataFile\s*=|data ?file:)\s*(\S+)", head)
    if where and where[1].upper() != "LOCAL":
        pair = "SimpleITK.WriteImage(SimpleITK.ReadImage('x.mhd'), 'x.nii.gz')"
        raise ImageError("has its voxels in another file", remedy=f"convert it: {pair}")
    with tempfile.NamedTemporaryFile(suffix=f".{kind.lower()}") as file:
        file.write(data)
        file.flush()
        reader = sitk.ImageFileReader()
        reader.SetFileName(file.name)
        reader.ReadImageInformation()
        channels = reader.GetNumberOfComponents()
        if (claimed := math.prod(reader.GetSize()) * channels) > MAX_BYTES:
            what = f"needs {claimed:,} bytes, the limit is {MAX_BYTES:,}"
            raise ImageError(what, remedy="cut the volume into smaller ones")
        image = reader.Execute()
    if channels not in (1, 3, 4):
        what = f"has {channels} values in each voxel"
        raise ImageError(what, remedy="save each of them as a volume")
    values = sitk.GetArrayFromImage(image)
    if channels > 1:
        names = [(name, values.dtype) for name in "RGBA"[:channels]]
        values = np.ascontiguousarray(values).view(names)[..., 0]
    values = values.T  # SimpleITK's arrays are (z, y, x)
    count, axes = image.GetDimension(), min(3, image.GetDimension())
    affine, to_ras = np.eye(4), np.diag([-1.0, -1, 1, 1])
    direction = np.reshape(image.GetDirection(), (count, count))
    affine[:axes, :axes] = (direction * image.GetSpacing())[:axes, :axes]
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return Volume(values, to_ras @ affine)


@functools.lru_cache(maxsize=2)  # for the next slice of the volume and of its mask
def _gunzip(data: bytes) -> bytes:
    """Decompress a volume and check its CRC; its header limits the size."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        volume = bytearray(file.read(2**20))
        limit = _needed(volume) + MAX_TRAILING
        while block := file.read(2**20):  # never allocates what the header merely claims
            volume += block
            if len(volume) > limit:
                raise ImageError("is much larger than its header states", remedy=AGAIN)
    return bytes(volume)


def _needed(head: bytes) -> int:
    """Return the size of the file by its header, at most `MAX_BYTES`."""
    second = head[:4] in _NIFTI2
    try:
        kind = nib.Nifti2Header if second else nib.Nifti1Header
        header = kind(head[: 540 if second else 348], check=False)
        count = math.prod(int(n) for n in header.get_data_shape())
        needed = int(header["vox_offset"]) + count * header.get_data_dtype().itemsize
        if count < 1 or not bytes(header["magic"]).startswith(b"n+"):  # a .hdr without its .img
            raise ValueError("no voxels")
    except Exception:
        pair = "nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')"
        what = "has no NIfTI header; Analyze and pairs of .hdr and .img are not read"
        raise ImageError(what, remedy=f"convert it to one file: {pair}") from None
    if needed > MAX_BYTES:
        limit = f"needs {needed:,} bytes, the limit is {MAX_BYTES:,}"
        raise ImageError(limit, remedy="cut the volume into smaller ones")
    return needed
