"""Ground-truth masks: next to their images, in a mirrored folder, or listed in a table."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.images import read_mask
from pipeline.intake import add_dataset, refresh_dataset
from pipeline.intake.rows import measure_masks
from pipeline.manifest import mask_file, read_manifest, write_manifest
from tests.data.conftest import mask, picture, rows_of, saved, zip_of

SIBLINGS = (
    "A mask next to its image (`x_mask.png`) is its ground truth, never an image of the class; "
    "several masks of one kind are united, several kinds are refused."
)


@pytest.mark.promise(SIBLINGS)
def test_sibling_masks_are_paired_and_several_of_one_kind_are_united(busi, paths, tmp_path):
    summary = add_dataset("d", busi, paths=paths)
    rows = rows_of(paths)
    assert summary.counts == {"": {"benign": 2, "malignant": 2, "normal": 2}}
    assert sum(summary.skipped.values()) == 7 and summary.masks == 6
    assert not rows.index.str.contains("mask").any()
    paired = rows.loc["malignant/malignant (1).png", ["mask_path", "mask_area"]].tolist()
    assert paired == ["malignant/malignant (1)_mask.png", "6"]
    united = rows.loc["benign/benign (2).png", ["mask_path", "mask_area"]].tolist()
    assert united == ["benign/benign (2)_mask.png|benign/benign (2)_mask_1.png", "9"]
    assert "1 images have masks of several files, which are united" in summary.notes
    add_dataset("e", busi, masks=busi, paths=paths)  # says the same in another way
    add_dataset("f", zip_of(tmp_path / "busi.zip", busi, "wrapper/"), paths=paths)
    assert rows_of(paths, "e").equals(rows) and rows_of(paths, "f").equals(rows)
    # Masks from elsewhere win, and those next to images are still no images.
    mask(tmp_path / "better" / "benign" / "benign (2).png", 50)
    summary = add_dataset("g", busi, masks=tmp_path / "better", paths=paths)
    assert (summary.images, summary.masks) == (6, 1)
    assert rows_of(paths, "g").loc["benign/benign (2).png", "mask_area"] == "50"


def test_a_name_like_a_masks_without_an_image_stays_an_image_and_is_warned_of(scans, paths):
    picture(scans / "train" / "cat" / "lone_mask.png", seed=90)
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 25
    assert any("named like masks" in w and "lone_mask.png" in w for w in summary.warnings)


@pytest.mark.promise("Masks are joined to images by name and size; what does not fit is said.")
def test_a_folder_of_masks_is_joined_by_stem_and_what_does_not_fit_is_said(scans, paths, tmp_path):
    masks = tmp_path / "scan_masks"
    mask(masks / "train" / "cat" / "0.png", 7)
    mask(masks / "train" / "dog" / "0.png", 0)
    mask(masks / "test" / "cat" / "3_mask.png", 4)
    mask(masks / "test" / "cat" / "99.png", 4)
    mask(masks / "train" / "cat" / "4.png", 7)
    picture(scans / "train" / "cat" / "4.bmp", seed=70)  # shares the stem of 4.png
    summary = add_dataset("d", scans, paths=paths, masks=masks)
    rows = rows_of(paths)
    areas = rows["mask_area"]
    counted = {"train/cat/0.png": "7", "train/dog/0.png": "0"}
    counted |= {"test/cat/3.png": "4", "train/cat/4.png": "7"}
    assert areas[areas != ""].to_dict() == counted and summary.masks == 4
    assert any("1 masks in scan_masks belong to no image" in w for w in summary.warnings)
    assert any("1 images have no mask" in w for w in summary.warnings)
    assert read_mask(mask_file(rows.loc["train/cat/0.png"], paths.data("d"))).sum() == 7
    assert str(tmp_path) not in paths.manifest("d").read_text()
    with pytest.raises(ManifestError, match="no mask fits an image"):
        add_dataset("e", scans, paths=paths, masks=tmp_path / "scan_masks" / "train")
    for at, name in enumerate(("5_mask.png", "5_seg.png")):  # two of one image
        mask(masks / "test" / "cat" / name, 4 + at)
    with pytest.raises(ManifestError, match=r"1 images have masks of several kinds, .*5_seg"):
        add_dataset("d", scans, paths=paths, masks=masks)
    add_dataset("d", scans, paths=paths, masks=masks, mask_name="*_seg.png")
    assert rows_of(paths).loc["test/cat/5.png", "mask_area"] == "5"


def test_masks_inside_the_image_folder_are_no_class(scans, paths):
    mask(scans / "masks" / "train" / "cat" / "0.png", 5)
    assert add_dataset("d", scans, paths=paths, masks=scans / "masks").images == 24


@pytest.mark.promise(
    "Of several masks of an image in a table that of the best rank or score is taken, else they "
    "are united; rows that fit nothing, lost masks and masks of several kinds are named."
)
@pytest.mark.parametrize(
    ("lines", "areas", "said"),
    [
        (
            ["{0}.png,m/2.png", "{0}.png,m/5.png"],
            {"0": 7},
            "1 images have masks of several files, which are",
        ),
        (["{0}.png,m/5.png,2", "{0}.png,m/2.png,1"], {"0": 2}, "1 masks are left out.*lowest rank"),
        (["{0}.png,m/2.png,5", "{1}.png,m/5.png,6"], {"0": 2}, "1 masks .* with a rank above 5"),
        (["{0}.png,m/2.png,best"], {}, "line 2: rank 'best' is not a number"),
        (["{0}.png,m/5.png,.9", "{0}.png,m/2.png,.7"], {"0": 5}, "left out for one of the highest"),
        (
            ["{0}.png,m/5.png,liver", "{0}.png,m/2.png,spleen"],
            {},
            "of several kinds in column 'organ'",
        ),
        (["{0}.png,m/5.png,R1", "{0}.png,m/2.png,R2"], {}, "of several kinds in column 'read by'"),
        (["{0}.png,m/5.png,90", "{0}.png,m/2.png,70"], {"0": 5}, "of the highest confidence score"),
        (["{0},m/2", "{1},m/5"], {"0": 2, "1": 5}, "masks found by their names"),
        (["/data/{0}.png,D:\\m\\2.png"], {"0": 2}, "without the folders 'D:'"),
        (["{0}.png,m/2.png", "{1}x.png,m/5.png"], {"0": 2}, "1 of 2 rows .* nearest file .*/1.png"),
        (["{0}.png,m/2.png", "{1}.png,m/5.jpg"], {"0": 2}, "1 masks .* not exist.*is m/5.png"),
        (["{0}.png,m/2.png", "{1}.png,m/2.png"], {"0": 2, "1": 2}, "2 images have the same mask"),
        (["{0}.png,m/2.png", "{1}.png,"], {"0": 2}, ""),
    ],
)
def test_rows_of_a_table_of_masks_are_joined_by_a_stated_rule(
    scans, paths, tmp_path, lines, areas, said
):
    mask(tmp_path / "m" / "2.png", 2)
    saved(tmp_path / "m" / "5.png", np.pad(np.full((1, 5), 255), ((5, 3), (7, 0))))
    third = {"liver": "organ", ".9": "Dice", "R1": "read by", "90": "confidence score"}.get(
        lines[0].split(",")[-1], "rank"
    )
    header = ",".join(["path", "mask", third][: lines[0].count(",") + 1])
    names = [f"train/cat/{i}" for i in range(2)]
    table = tmp_path / "masks.csv"
    table.write_text("\n".join([header, *(line.format(*names) for line in lines)]))
    if not areas:
        with pytest.raises(ManifestError, match=said):
            add_dataset("d", scans, paths=paths, masks=table)
        return
    summary = add_dataset("d", scans, paths=paths, masks=table)
    found = rows_of(paths)["mask_area"]
    expected = {f"train/cat/{i}.png": str(area) for i, area in areas.items()}
    assert found[found != ""].to_dict() == expected
    assert re.search(said, summary.text()), summary.text()
    assert said or not summary.warnings


@pytest.mark.promise("Masks are joined to images by name and size; what does not fit is said.")
def test_a_mask_that_cannot_be_used_is_left_out_by_name_also_when_added_again(
    scans, paths, tmp_path
):
    masks = tmp_path / "m" / "train" / "cat"
    for i in range(3):
        mask(masks / f"{i}.png", 7)
    assert add_dataset("d", scans, paths=paths, masks=tmp_path / "m").masks == 3
    mask(masks / "0.png", 7, size=(9, 12))
    (masks / "1.png").write_bytes(b"no mask")
    summary = add_dataset("d", scans, paths=paths, masks=tmp_path / "m")
    assert summary.masks == 1
    text = "\n".join(summary.warnings)
    assert "train/cat/0.png" in text and "train/cat/1.png" in text
    rows = rows_of(paths)
    assert rows[rows["mask_path"] != ""].index.tolist() == ["train/cat/2.png"]
    assert rows[rows["mask_area"] != ""].index.tolist() == ["train/cat/2.png"]


@pytest.mark.promise(
    "`data refresh` keeps what it cannot find: a row whose image or mask is away or broken keeps "
    "its cells, mask_path too, and is named with the remedy."
)
def test_refresh_takes_new_bytes_and_sizes_and_names_what_is_away_or_broken(scans, paths, tmp_path):
    masks = tmp_path / "m"
    for i in range(4):
        mask(masks / "train" / "cat" / f"{i}.png", 7)
    add_dataset("d", scans, paths=paths, masks=masks)
    before = paths.manifest("d").read_bytes()
    masks.rename(tmp_path / "away")
    failed = refresh_dataset("d", paths=paths).failed
    assert paths.manifest("d").read_bytes() == before
    assert list(failed) == [f"train/cat/{i}.png" for i in range(4)]
    assert all(f"m/{name}" in why and "put it back" in why for name, why in failed.items())
    (tmp_path / "away").rename(masks)
    (masks / "train" / "cat" / "1.png").write_bytes(b"no mask")
    mask(masks / "train" / "cat" / "2.png", 5)
    picture(scans / "train" / "dog" / "0.png", seed=9, size=(30, 20))
    (scans / "train" / "dog" / "1.png").unlink()
    summary = refresh_dataset("d", paths=paths)
    assert list(summary.failed) == ["train/dog/1.png", "train/cat/1.png"]
    assert summary.changed["changed"] == 1
    rows = read_manifest(paths.manifest("d")).set_index("image_id", drop=False)
    assert rows.loc[rows["mask_path"] != "", "mask_area"].tolist() == ["7", "7", "5", "7"]
    assert rows.loc["train/dog/0.png", ["width", "height"]].tolist() == [30, 20]
    assert len(rows) == 24
    rows.loc["train/cat/1.png", "mask_path"] = ""  # as the remedy says
    write_manifest(rows, paths.manifest("d"))
    assert refresh_dataset("d", paths=paths).masks == 3


ALOUD = (
    "Empty masks, and masks that cover the border or more than half of the image, are counted by "
    "`data add`, `data check` and the preview; where most can be read in two ways they are refused."
)

REGION = np.pad(np.ones((4, 6), bool), ((2, 3), (3, 3)))
LARGE = np.pad(np.ones((7, 10), bool), 1)


@pytest.mark.promise(ALOUD)
def test_odd_masks_are_counted_and_the_rule_is_kept(scans, paths, tmp_path):
    masks = tmp_path / "truth" / "train" / "cat"
    for k, (region, inside, outside) in enumerate(
        [(REGION, 255, 0), (REGION, 0, 0), (REGION, 0, 255), (LARGE, 255, 0)]
    ):
        saved(masks / f"{k}.png", np.where(region, inside, outside))
    summary = add_dataset("d", scans, masks=tmp_path / "truth", paths=paths)
    told = [line for line in summary.warnings if "of 4 ground-truth masks" in line]
    assert len(told) == 3 and all(line.startswith("1 of 4") for line in told)
    for name, words in (("1.png", "empty"), ("2.png", "border"), ("3.png", "half")):
        assert any(name in line and words in line for line in told)
    frame = read_manifest(paths.manifest("d"))
    assert measure_masks(frame, paths.data("d").joinpath).lines() == told
    add_dataset("d", scans, masks=tmp_path / "truth", mask_rule="invert", paths=paths)
    inverted = rows_of(paths)["mask_area"]
    assert inverted["train/cat/0.png"] == "84" and inverted["train/cat/2.png"] == "24"
    add_dataset("d", scans, masks=tmp_path / "truth", paths=paths)
    assert rows_of(paths)["mask_area"].equals(inverted)


@pytest.mark.promise(ALOUD)
def test_masks_that_are_all_empty_are_said_to_be(scans, paths, tmp_path):
    """A JPEG of 0 and 1 at a low quality holds zeros."""
    for k in range(3):
        saved(tmp_path / "truth" / "train" / "cat" / f"{k}.jpg", REGION, quality=10)
    said = "\n".join(add_dataset("d", scans, masks=tmp_path / "truth", paths=paths).warnings)
    assert "3 of 3 ground-truth masks are empty, all of them (JPEG loses" in said


@pytest.mark.promise(SIBLINGS)
def test_masks_beside_the_images_of_a_table_are_taken_and_the_images_are_not(busi, paths):
    names = [f"{c}/{c} ({i}).png" for c in ("benign", "malignant") for i in (1, 2)]
    lines = [f"{name},{name[:3]}" for name in names]
    (busi / "t.csv").write_text("\n".join(["path,label", *lines]))
    summary = add_dataset("d", busi / "t.csv", masks=busi, paths=paths)
    assert summary.masks == 4
    assert set(rows_of(paths)["mask_path"]).isdisjoint(names)


@pytest.mark.promise(ALOUD)
@pytest.mark.parametrize(
    ("inside", "outside", "option", "rule", "area"),
    [
        (0, 255, "--mask-invert", "invert", 24),
        (0, 255, "--mask-values", "values=255", 84),
        (2, 1, "--mask-values", "values=2", 24),
        (1, 0, "--mask-ignore", "ignore=255", 20),
    ],
)
def test_a_set_that_can_be_read_in_two_ways_is_refused_with_the_option_that_chooses(
    scans, paths, tmp_path, inside, outside, option, rule, area
):
    for k in range(3):
        values = np.where(REGION, inside, outside)
        if outside == 1:
            values[0, 0] = 3
        if rule.startswith("ignore"):
            values[2, 3:7] = 255
        saved(tmp_path / "truth" / "train" / "cat" / f"{k}.png", values)
    with pytest.raises(ManifestError) as error:
        add_dataset("d", scans, masks=tmp_path / "truth", paths=paths)
    assert option in error.value.remedy and not paths.manifest("d").exists()
    add_dataset("d", scans, masks=tmp_path / "truth", mask_rule=rule, paths=paths)
    rows = rows_of(paths)
    assert set(rows.loc[rows["mask_path"] != "", "mask_area"]) == {str(area)}
    assert set(rows.loc[rows["mask_path"] != "", "mask_rule"]) == {rule}
