"""Masks of NIfTI slices go back to the voxels of the file by the lines that the README shows."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.images import read_image
from tests.images.makers import save_nifti
from tests.segment.small_sam2 import scene
from tests.site import Site


def readme_lines(repo: Path, word: str) -> str:
    """The block of Python in the README that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if word in block)


@pytest.mark.promise(
    "NIfTI of any axis order and scaling shows the same slices, and masks map back to voxels "
    "(`to_voxels`, shown in the README)."
)
def test_the_readmes_lines_turn_a_stored_mask_back_to_voxels(
    repo: Path, tmp_path: Path, monkeypatch
) -> None:
    slices = [scene(i, 48, 64)[0][..., 0] for i in range(3)]
    # The file's axes are slices (downward), columns (rightward) and rows (frontward).
    affine = np.array([[0, -1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], float)
    folder = tmp_path / "scans/train/benign"
    folder.mkdir(parents=True)
    path = save_nifti(np.stack([s.T for s in slices]), folder / "scan.nii.gz", affine)
    site = Site.create(tmp_path / "site")
    site.params(segment__prompt="center-box")
    site.run("pipeline", "data", "add", "breast", "--from", str(tmp_path / "scans"))
    site.stage("segment")
    assert site.record("segment")["done"] == 3
    lines = readme_lines(repo, "to_voxels")
    for word, ours in (
        ("brain", "breast"),
        ("glioma", "benign"),
        ("#12", "#2"),
        ("frame=12", "frame=2"),
    ):
        assert word in lines
        lines = lines.replace(word, ours)
    monkeypatch.chdir(site.root)
    names: dict = {}
    exec("from pipeline import open_masks\n" + lines, names)
    mask, voxels = names["mask"], names["voxels"]
    stored = np.asarray(nib.load(path).dataobj)
    assert voxels.dtype == bool and voxels.shape == stored.shape
    assert 0 < mask.sum() == voxels.sum() == voxels[0].sum()  # slice 2 is the highest, index 0
    shown = read_image(path, 2)[..., 0]
    np.testing.assert_array_equal(np.sort(stored[voxels]), np.sort(shown[mask]))
    assert stored[voxels].mean() > stored[0].mean()
