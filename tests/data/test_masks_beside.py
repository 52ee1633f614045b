"""Masks that lie beside their images, as in the original BUSI folder, are never images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest
from tests.data.conftest import picture
from tests.data.test_ground_truth_groups import mask


@pytest.fixture
def busi(tmp_path) -> Path:
    """Three classes of two images; each with a mask beside it, one of them with two."""
    root = tmp_path / "Dataset_BUSI_with_GT"
    for c, label in enumerate(("benign", "malignant", "normal")):
        for i in (1, 2):
            picture(root / label / f"{label} ({i}).png", seed=10 * c + i)
            mask(root / label / f"{label} ({i})_mask.png", 5 * c + i)
    mask(root / "benign" / "benign (2)_mask_1.png", 9)
    return root


def rows_of(paths, name="d"):
    frame = read_manifest(paths.manifest(name), data=paths.data(name), check_files=True)
    return frame.set_index("image_id", drop=False)


def test_masks_beside_their_images_are_paired_and_are_no_images_of_the_class(busi, paths):
    summary = add_dataset("d", busi, paths=paths)
    rows = rows_of(paths)
    assert summary.counts == {"": {"benign": 2, "malignant": 2, "normal": 2}}
    assert summary.skipped == {"ground-truth mask beside its image": 7}
    assert not rows.index.str.contains("mask").any()
    assert rows.loc["malignant/malignant (1).png", ["mask_path", "mask_area"]].tolist() == [
        "malignant/malignant (1)_mask.png",
        "6",
    ]


def test_an_image_with_two_masks_gets_none_and_is_named_with_the_remedy(busi, paths):
    summary = add_dataset("d", busi, paths=paths)
    assert rows_of(paths).loc["benign/benign (2).png", "mask_path"] == ""
    assert summary.masks == 5
    (told,) = [w for w in summary.warnings if "several masks" in w]
    assert "benign/benign (2).png" in told
    assert "--masks" in told


def test_a_mask_folder_with_two_masks_of_an_image_gives_it_none_either(busi, paths, tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for file in sorted(busi.rglob("*.png")):
        target = (masks if "_mask" in file.name else images) / file.relative_to(busi)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    summary = add_dataset("d", images, masks=masks, paths=paths)
    assert summary.masks == 5
    assert rows_of(paths).loc["benign/benign (2).png", "mask_path"] == ""
    assert any("several fit" in w for w in summary.warnings)
    assert not any("belong to no image" in w for w in summary.warnings)


def test_naming_the_images_folder_as_masks_is_the_same(busi, paths):
    add_dataset("d", busi, paths=paths)
    add_dataset("e", busi, masks=busi, paths=paths)
    assert rows_of(paths).equals(rows_of(paths, "e"))


def test_masks_from_elsewhere_win_and_those_beside_are_still_no_images(busi, paths, tmp_path):
    mask(tmp_path / "better" / "benign" / "benign (2).png", 50)
    summary = add_dataset("d", busi, masks=tmp_path / "better", paths=paths)
    assert (summary.images, summary.masks) == (6, 1)
    assert rows_of(paths).loc["benign/benign (2).png", "mask_area"] == "50"


@pytest.mark.parametrize("prefix", ["", "wrapper/"])
def test_a_zip_of_such_a_folder_gives_the_same_manifest(busi, paths, tmp_path, prefix):
    add_dataset("d", busi, paths=paths)
    with zipfile.ZipFile(tmp_path / "busi.zip", "w") as archive:
        for file in sorted(busi.rglob("*.png")):
            archive.write(file, prefix + file.relative_to(busi).as_posix())
    add_dataset("e", tmp_path / "busi.zip", paths=paths)
    assert rows_of(paths).equals(rows_of(paths, "e"))


def test_names_like_masks_without_an_image_stay_images_and_are_warned_of(scans, paths):
    picture(scans / "train" / "cat" / "lone_mask.png", seed=90)
    picture(scans / "train" / "cat" / "unmasked.png", seed=91)
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 26
    (told,) = [w for w in summary.warnings if "named like masks" in w]
    assert "train/cat/lone_mask.png" in told
    assert "unmasked" not in told


def test_a_class_folder_called_masks_is_warned_of(tmp_path, paths):
    for label in ("cat", "dog", "Masks"):
        picture(tmp_path / "x" / label / "0.png", seed=len(label))
    warnings = add_dataset("d", tmp_path / "x", paths=paths).warnings
    assert any("'Masks' looks like ground truth" in w for w in warnings)
