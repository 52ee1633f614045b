"""NIfTI: one display orientation for any axes, and masks that map back to voxels."""

from __future__ import annotations

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import probe, read_image, read_mask, to_voxels
from tests.images.makers import grey, rgb, save_nifti

AXES = "NIfTI volumes of any axis order show the same slices, and masks map back to voxels."
OPPOSITE = {"R": "L", "A": "P", "S": "I"}
CODES = [
    "".join(axis if up else OPPOSITE[axis] for axis, up in zip(axes, ups, strict=True))
    for axes in itertools.permutations("RAS")
    for ups in itertools.product((True, False), repeat=3)
]


def volume() -> np.ndarray:
    """RAS voxels (x, y, z) of 12-bit samples, different along every axis."""
    slices = [grey(14, 11, seed=s).T.astype(np.int16) * 10 + s for s in range(5)]
    return np.stack(slices, axis=2)


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(turn)


@pytest.mark.promise(AXES)
@pytest.mark.parametrize("codes", CODES)
def test_all_48_axis_orders_give_the_same_slices_and_map_back(tmp_path, codes):
    ras = nib.Nifti1Image(volume(), np.diag([0.7, 0.8, 3.0, 1]))
    image = reoriented(ras, codes)
    path = tmp_path / "x.nii"
    image.to_filename(path)
    first = tmp_path / "ras.nii"
    ras.to_filename(first)
    assert [(f.width, f.height) for f in probe(path)] == [(11, 14)] * 5
    collected = None
    for k in range(5):
        array = read_image(path, k)
        np.testing.assert_array_equal(array, read_image(first, k))
        mask = array[..., 0] > 120
        collected = to_voxels(mask, path, k, out=collected)
    assert collected.shape == image.shape
    # saved with the affine of the file, the masks read as they were drawn
    back = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(collected.astype(np.uint8), image.affine).to_filename(back)
    for k in range(5):
        np.testing.assert_array_equal(read_mask(back, k), read_image(path, k)[..., 0] > 120)


@pytest.mark.promise(AXES)
def test_anterior_is_up_and_the_patients_right_is_on_the_left(tmp_path):
    voxels = np.zeros((9, 9, 3), np.uint8)
    voxels[8, 8, 2] = 200  # right, anterior, top
    path = save_nifti(voxels, tmp_path / "x.nii")
    assert not read_image(path, 0).any()
    assert np.argwhere(read_image(path, 2)[..., 0]).tolist() == [[0, 0]]


def test_a_single_sagittal_slice_is_shown_in_its_plane_superior_up(tmp_path):
    voxels = np.zeros((1, 9, 7), np.uint8)
    voxels[0, 8, 6] = 200  # anterior, top
    path = save_nifti(voxels, tmp_path / "x.nii")
    assert [(f.width, f.height) for f in probe(path)] == [(9, 7)]
    assert np.argwhere(read_image(path)[..., 0]).tolist() == [[0, 0]]


def test_a_two_dimensional_file_in_lps_is_the_picture_it_was_made_from(tmp_path):
    affine = np.diag([-1.0, -1, 1, 1])
    path = save_nifti(grey().T.copy(), tmp_path / "x.nii.gz", affine)
    np.testing.assert_array_equal(read_image(path), rgb(grey()))
    path = save_nifti(grey().T[:, :, None, None].copy(), tmp_path / "y.nii.gz", affine)
    np.testing.assert_array_equal(read_image(path), rgb(grey()))


def test_scaled_files_of_either_byte_order_show_what_a_png_of_the_samples_shows(tmp_path):
    deep = grey().astype(np.uint16) * 15
    Image.fromarray(deep).save(tmp_path / "x.png")
    expected = read_image(tmp_path / "x.png")
    for order in "<>":
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype(np.int16)
        image = nib.Nifti1Image(deep.T.astype(np.int16), np.diag([-1.0, -1, 1, 1]), header)
        image.header.set_slope_inter(0.5, -100)
        path = tmp_path / "x.nii"
        nib.Nifti1Image(deep.T * 0.5 - 100, image.affine, image.header).to_filename(path)
        assert np.abs(read_image(path).astype(int) - expected).max() <= 1


@pytest.mark.promise("NaN is black and reported; a 4-D NIfTI file is refused with its count.")
def test_nan_is_black_and_does_not_count_for_the_range(tmp_path):
    values = grey().T.astype(np.float32)
    plain = read_image(save_nifti(values, tmp_path / "a.nii", np.diag([-1.0, -1, 1, 1])))
    values[:, 0] = np.nan
    hurt = read_image(save_nifti(values, tmp_path / "b.nii", np.diag([-1.0, -1, 1, 1])))
    assert not hurt[0].any()
    assert np.abs(hurt[1:].astype(int) - plain[1:]).max() <= 4
    values[:] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        read_image(save_nifti(values, tmp_path / "c.nii"))


@pytest.mark.promise("NaN is black and reported; a 4-D NIfTI file is refused with its count.")
def test_four_dimensions_are_refused_with_the_count(tmp_path):
    path = save_nifti(np.zeros((4, 5, 6, 7), np.int16), tmp_path / "x.nii")
    for read in (probe, read_image):
        with pytest.raises(ImageError, match=r"7 volumes.*fslsplit"):
            read(path)


def test_truncated_and_corrupt_volumes_are_refused(tmp_path):
    path = save_nifti(volume(), tmp_path / "x.nii")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    for read in (probe, read_image):
        with pytest.raises(ImageError, match="truncated"):
            read(path)
    packed = tmp_path / "x.nii.gz"
    whole = gzip.compress(whole)
    packed.write_bytes(whole[:-200])
    with pytest.raises(ImageError):
        read_image(packed)
    hurt = bytearray(whole)
    hurt[-6] ^= 1  # the checksum
    packed.write_bytes(hurt)
    with pytest.raises(ImageError):
        read_image(packed)


def test_a_header_of_terabytes_is_refused(tmp_path):
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.float64), np.eye(4)).header
    header["dim"][1:4] = 30000
    for name, pack in (("x.nii", bytes), ("x.nii.gz", gzip.compress)):
        path = tmp_path / name
        path.write_bytes(pack(header.binaryblock + b"\0" * 4096))
        with pytest.raises(ImageError, match="limit"):
            read_image(path)


@pytest.mark.promise(AXES)
def test_a_mask_voxel_has_the_world_coordinates_of_its_pixel(tmp_path):
    ras = nib.Nifti1Image(volume(), np.diag([0.7, 0.8, 3.0, 1]))
    image = reoriented(ras, "PIL")
    path = tmp_path / "x.nii"
    image.to_filename(path)
    mask = np.zeros((14, 11), bool)
    mask[0, 0] = True  # most anterior, most right
    voxels = to_voxels(mask, path, 4)
    world = image.affine @ [*np.argwhere(voxels)[0], 1]
    np.testing.assert_allclose(world[:3], [0.7 * 10, 0.8 * 13, 3.0 * 4])
    with pytest.raises(ImageError, match="slice 11 x 14"):
        to_voxels(mask.T, path, 4)
