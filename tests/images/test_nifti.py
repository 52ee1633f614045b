"""NIfTI: one display orientation for any axes, and masks that map back to voxels."""

from __future__ import annotations

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from pipeline.errors import ImageError
from pipeline.images import nifti, probe, read_image, read_mask, to_voxels
from pipeline.manifest import MaskFiles
from tests.images.makers import LPS, grey, save_nifti

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


@pytest.mark.promise(AXES)
@pytest.mark.parametrize("codes", CODES)
def test_all_48_axis_orders_give_the_same_slices_and_map_back(tmp_path, codes):
    ras = nib.Nifti1Image(volume(), np.diag([0.7, 0.8, 3.0, 1]))
    turn = ornt_transform(io_orientation(ras.affine), axcodes2ornt(codes))
    image = ras.as_reoriented(turn)
    path, first = tmp_path / "x.nii", tmp_path / "ras.nii"
    image.to_filename(path)
    ras.to_filename(first)
    assert [(f.width, f.height) for f in probe(path)] == [(11, 14)] * 5
    collected = None
    for k in range(5):
        array = read_image(path, k)
        np.testing.assert_array_equal(array, read_image(first, k))
        collected = to_voxels(array[..., 0] > 120, path, k, out=collected)
    # saved with the affine of the file, the masks read as they were drawn
    back = save_nifti(collected.astype(np.uint8), tmp_path / "mask.nii.gz", image.affine)
    for k in range(5):
        np.testing.assert_array_equal(read_mask(back, k), read_image(path, k)[..., 0] > 120)
    corner = np.zeros((14, 11), bool)
    corner[0, 0] = True  # most anterior, most right
    world = image.affine @ [*np.argwhere(to_voxels(corner, path, 4))[0], 1]
    np.testing.assert_allclose(world[:3], [0.7 * 10, 0.8 * 13, 3.0 * 4])
    with pytest.raises(ImageError, match="slice 11 x 14"):
        to_voxels(corner.T, path, 4)


@pytest.mark.promise(AXES)
@pytest.mark.parametrize(
    ("shape", "at", "frame", "size"),
    [((9, 9, 3), (8, 8, 2), 2, (9, 9)), ((1, 9, 7), (0, 8, 6), 0, (9, 7))],
    ids=["axial volume", "one sagittal slice"],
)
def test_anterior_is_up_and_the_patients_right_is_on_the_left(tmp_path, shape, at, frame, size):
    voxels = np.zeros(shape, np.uint8)
    voxels[at] = 200  # right, anterior, top
    path = save_nifti(voxels, tmp_path / "x.nii")
    assert {(f.width, f.height) for f in probe(path)} == {size}
    assert np.argwhere(read_image(path, frame)[..., 0]).tolist() == [[0, 0]]
    assert not any(read_image(path, k).any() for k in range(frame))


@pytest.mark.promise("NaN is black; a 4-D NIfTI file is refused with its count.")
def test_nan_is_black_and_does_not_count_for_the_range(tmp_path):
    values = grey().T.astype(np.float32)
    plain = read_image(save_nifti(values, tmp_path / "a.nii", LPS))
    values[:, 0] = np.nan
    values[0, 1] = np.inf
    hurt = read_image(save_nifti(values, tmp_path / "b.nii", LPS))
    assert not hurt[0].any() and not hurt[1, 0].any()
    assert np.abs(hurt[2:].astype(int) - plain[2:]).max() <= 4
    values[:] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        read_image(save_nifti(values, tmp_path / "c.nii"))


@pytest.mark.promise("NaN is black; a 4-D NIfTI file is refused with its count.")
def test_four_dimensions_are_refused_with_the_count(tmp_path):
    path = save_nifti(np.zeros((4, 5, 6, 7), np.int16), tmp_path / "x.nii")
    for read in (probe, read_image):
        with pytest.raises(ImageError, match=r"7 volumes.*fslsplit"):
            read(path)


@pytest.mark.promise("A truncated or damaged file is refused by name; it is never shown black.")
def test_truncated_and_corrupt_volumes_are_refused(tmp_path):
    whole = save_nifti(volume(), tmp_path / "x.nii").read_bytes()
    packed = gzip.compress(whole)
    hurt = bytearray(packed)
    hurt[-6] ^= 1  # the checksum
    for data in (whole[:-10], packed[:-200], bytes(hurt)):
        (tmp_path / "x.nii").write_bytes(data)
        for read in (probe, read_image):
            with pytest.raises(ImageError, match=r"truncated|damaged"):
                read(tmp_path / "x.nii")


PLACE = (
    "A mask volume is compared with its image by place: on another grid it is refused, or "
    "resampled with --resize-masks; it is never laid by number."
)
GRID = np.diag([2.0, 1.5, 4.0, 1])
LESION = np.zeros((12, 10, 8), np.uint8)
LESION[6:10, 2:6, 2:6] = 1


def affine(scale: object = 1, origin: object = 0) -> np.ndarray:
    """The affine of `GRID` with other voxel sizes and another first voxel (mm)."""
    made = GRID.copy()
    made[:3, :3] *= scale
    made[:3, 3] = origin
    return made


FLIP = [[-1, 0, 0, 11], [0, 1, 0, 0], [0, 0, -1, 7], [0, 0, 0, 1]]
HALVED = LESION.repeat(2, 0).repeat(2, 1).repeat(2, 2)
ON_GRIDS = {
    "flipped": (LESION[::-1, :, ::-1], GRID @ FLIP),
    "turned": (LESION.transpose(2, 0, 1), GRID[:, [2, 0, 1, 3]]),
    "rounded": (LESION, affine(origin=1e-4)),
    "cropped": (LESION[4:, 1:, 2:], affine(origin=[8, 1.5, 8])),
    "moved": (np.roll(LESION, -3, axis=0), affine(origin=[6, 0, 0])),
    "finer": (HALVED, affine(0.5, GRID.diagonal()[:3] / -4)),
    "thick": (LESION[:, :, ::2], affine([1, 1, 2], [0, 0, 2])),
}


@pytest.mark.promise(PLACE)
@pytest.mark.parametrize("kind", ON_GRIDS)
def test_a_mask_lies_where_its_affine_says(tmp_path, kind):
    values = np.where(LESION, 900, 100).astype(np.int16)
    image = save_nifti(values, tmp_path / "x.nii.gz", GRID)
    voxels, place = ON_GRIDS[kind]
    mask = save_nifti(np.ascontiguousarray(voxels), tmp_path / "m.nii.gz", place)
    files = {rule: MaskFiles((mask,), rule, image) for rule in ("", "resize")}
    for k in range(8):
        bright = read_image(image, k)[..., 0] > 128
        np.testing.assert_array_equal(read_mask(files["resize"], k, shape=(10, 12)), bright)
        if kind in ("flipped", "turned", "rounded"):
            np.testing.assert_array_equal(read_mask(files[""], k, shape=(10, 12)), bright)
        else:
            with pytest.raises(ImageError, match="another grid") as error:
                read_mask(files[""], k, shape=(10, 12))
            assert "--resize-masks" in error.value.remedy


@pytest.mark.promise(PLACE)
def test_a_region_beside_its_image_is_refused_and_a_mask_is_read_once(tmp_path, monkeypatch):
    image = save_nifti(LESION.astype(np.int16), tmp_path / "x.nii.gz", GRID)
    away = save_nifti(LESION, tmp_path / "away.nii", affine(origin=[60, 0, 0]))
    near = save_nifti(LESION, tmp_path / "near.nii", affine(origin=[2, 0, 0]))
    with pytest.raises(ImageError, match="outside its image"):
        read_mask(MaskFiles((away,), "resize", image), 3)
    reads = []
    monkeypatch.setattr(nifti, "read", lambda *a, read=nifti.read: reads.append(a[2]) or read(*a))
    found = [read_mask(MaskFiles((near,), "resize", image), k).sum() for k in range(8)]
    assert found == [0, 0, 16, 16, 16, 16, 0, 0] and max(map(reads.count, reads)) < 8


@pytest.mark.promise("All slices of a volume are shown with one range, empty ones too.")
def test_a_slice_of_air_is_dark_and_a_window_can_be_given(tmp_path):
    values = np.random.default_rng(0).normal(-1000, 8, (16, 16, 6))
    values[4:12, 4:12, 2:5] = 60
    path = save_nifti(values.astype(np.int16), tmp_path / "x.nii")
    slices = np.stack([read_image(path, k)[..., 0] for k in range(6)])
    assert slices[[0, 1, 5]].max() < 16 and slices[3, 5:11, 5:11].min() > 240
    soft = read_image(path, 3, window=(40, 400))[..., 0]
    assert set(np.unique(soft[4:12, 4:12])) == {round(255 * (60 + 160) / 400)} and soft[0, 0] == 0


@pytest.mark.promise("MHA and NRRD volumes show the same slices, in the same places, as NIfTI.")
@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
@pytest.mark.parametrize("packed", [False, True])
def test_mha_and_nrrd_equal_nifti(tmp_path, suffix, packed):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(volume().T)
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-20, 7, 31))
    image.SetDirection((-1, 0, 0, 0, 0, 1, 0, 1, 0))
    sitk.WriteImage(image, str(tmp_path / "x.nii"))
    sitk.WriteImage(image, str(tmp_path / f"x.{suffix}"), packed)
    first, other = probe(tmp_path / "x.nii"), probe(tmp_path / f"x.{suffix}")
    assert first == other and len(first) > 1
    for k in range(len(first)):
        expected = read_image(tmp_path / "x.nii", k)
        np.testing.assert_array_equal(read_image(tmp_path / f"x.{suffix}", k), expected)
    mask = save_nifti(np.ones(3 * (4,), np.uint8), tmp_path / "m.nii")
    with pytest.raises(ImageError, match="another grid"):
        read_mask(MaskFiles((mask,), "", tmp_path / f"x.{suffix}"))
