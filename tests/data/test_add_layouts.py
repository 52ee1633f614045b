"""Intake of the layouts that public sets have: masks by name and folder, splits, patients."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.intake import add_dataset
from pipeline.intake.truth import Images
from tests.data.conftest import mask, picture, rows_of
from tests.images.makers import dicom, grey, save_dicom

BY_NAME = (
    "Ground truth is found by its name, next to its image or in a folder next to those of images, "
    "and is never an image of a class."
)
ASKED = (
    "Where names and pixels can be read in two ways `data add` refuses, writes nothing, and names "
    "the options that choose."
)
FOLDERS = "Folders are splits, classes and patients by their names, or as --layout says."


def grow(root: Path, *patterns: str, classes: str = "ab", count: int = 4) -> Path:
    """Write files for each class {c} and number {i}: a picture, or a mask after "m:"."""
    for at, pattern in enumerate(patterns):
        for c, name in enumerate(classes):
            for i in range(count):
                path = root / pattern.removeprefix("m:").format(c=name, i=i)
                if pattern.startswith("m:"):
                    mask(path, 20 + 10 * c + i + at)
                else:
                    picture(path, seed=100 * at + 10 * c + i)
    return root


@pytest.mark.promise(BY_NAME)
@pytest.mark.parametrize(
    ("patterns", "of_first"),
    [
        (["{c}/{i}.jpg", "m:{c}/{i}_Ground Truth.png"], "a/0_Ground Truth.png"),
        (["{c}/{i}.png", "m:{c}/{i}.mask.png"], "a/0.mask.png"),
        (["{c}/{i}.png", "m:{c}/GT-{i}.bmp"], "a/GT-0.bmp"),
        (["{c}/n{i}.png", "m:{c}/n{i}M.png"], "a/n0M.png"),
        (["{c}/{i}.png", "m:{c}/{i}_tumour.png"], "a/0_tumour.png"),  # by its pixels
        (["{c}/{c}{i}.png", "m:{c}/{c}{i}_1stHO.png"], "a/a0_1stHO.png"),
        (["{c}/{i}.jpg", "m:{c}/{i}.png"], "a/0.png"),
        (["{c}/{i}.jpg", "m:{c}/{i}.jpg_mask.png"], "a/0.jpg_mask.png"),
        (["{c}/{c}{i}.png", "m:{c}/{c}{i}_1.png"], "a/a0_1.png"),
        (["{c}/images/img_{i}.png", "m:{c}/masks/mask_{i}.png"], "a/masks/mask_0.png"),
        (["{c}/c{i}-t1n.png", "m:{c}/c{i}-seg.png"], "a/c0-seg.png"),
        (["{c}/{c}{i}/img.png", "m:{c}/{c}{i}/label.png"], "a/a0/label.png"),
        (
            ["{c}/{i}.png", "m:{c}/{i}_1_roi.png", "m:{c}/{i}_2_roi.png"],
            "a/0_1_roi.png|a/0_2_roi.png",
        ),
        (["{c}/image/{i}.jpg", "m:{c}/annotation/{i}.png"], "a/annotation/0.png"),
        (["{c}/{i}.png", "m:{c}/GroundTruth/{i}_gt.png"], "a/GroundTruth/0_gt.png"),
        (["{c}/{c}{i}.png", "m:Masks/{c}{i}.png"], "Masks/a0.png"),
        (["{c}/Images/{i}.png", "m:{c}/Ground-truths/mask_{i}.png"], "a/Ground-truths/mask_0.png"),
        (["x/CXR/{c}/{i}.png", "m:x/lung masks/{c}/{i}.png"], "lung masks/a/0.png"),
        (["train_images/{c}/{i}.png", "m:train_masks/{c}/{i}.png"], "train_masks/a/0.png"),
        (["{c}/imagesTr/{c}{i}_0000.png", "m:{c}/labelsTr/{c}{i}.png"], "a/labelsTr/a0.png"),
        (["{c}/{c}{i}/images/q.png", "m:{c}/{c}{i}/masks/f.png"], "a/a0/masks/f.png"),
        # Of several images that a mask may belong to, its number or side decides.
        (["{c}/image_{i}.png", "m:{c}/mask_{i}.png"], "a/mask_0.png"),
        (["{c}/{c}x_{i}.png", "m:{c}/{c}x_mask_0{i}.png"], "a/ax_mask_00.png"),
        (
            ["{c}/{c}{i}/scan1.png", "{c}/{c}{i}/scan2.png", "m:{c}/{c}{i}/roi1.png"],
            "a/a0/roi1.png",
        ),
        (["{c}/q{i}_t1.png", "{c}/q{i}_t2.png", "m:{c}/q{i}_seg_1.png"], "a/q0_seg_1.png"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_masks_by_name_and_folder_are_paired_and_are_no_images(tmp_path, paths, patterns, of_first):
    summary = add_dataset("d", grow(tmp_path / "s", *patterns), paths=paths)
    files, images = 8 * len(patterns), 8 * sum(name[:2] != "m:" for name in patterns)
    rows = rows_of(paths)
    assert rows["label"].value_counts().to_dict() == dict.fromkeys("ab", images // 2)
    found = rows[rows["mask_path"] != ""]
    assert found["mask_path"].iloc[0] == of_first
    areas = [20 + 10 * c + i + len(patterns) - 1 for c in range(2) for i in range(4)]
    assert found["mask_area"].astype(int).unique().tolist() == areas
    assert f"{files} image files became {images} rows" in summary.text()
    skipped = {why: n for why, n in summary.skipped.items() if "mask" in why}
    assert sum(skipped.values()) == files - images


SIDES = ["{c}/one/{i}.png", "m:{c}/two/{i}.png"]
KINDS = ["{c}/{i}.png", "m:{c}/{i}_mask_left.png", "m:{c}/{i}_mask_right.png"]
LEFT = ["{c}/image_{i}.png", "m:{c}/mask_{i}_left.png"]  # no rule finds the image
READERS = ["{c}/{i}.png", "m:{c}/{i}_gt_reader1.png", "m:{c}/{i}_gt_reader2.png"]
HELD_OUT = ["train/{c}/{i}.png", "holdout/{c}/{i}.png"]
FOLDS = ["fold1/train/{c}/{i}.png", "fold2/test/{c}/{i}.png"]
PATIENTS_ONLY = ["BraTS_00{i}/{c}{i}.png"]
ORGANS = ["{c}/{c}{i}/ct.png", "m:{c}/{c}{i}/liver.png", "m:{c}/{c}{i}/tumor.png"]
HASHES = ["3f0{i}aa2{i}/{c}{i}.png"]
FORMATS = ["png/{c}{i}.png", "TIF/{c}{i}.tif"]
COPY = ["{c}/{c}{i}.png", "set/{c}/{c}{i}z.png"]
NESTED = ["{c}/k{c}/{c}{i}.png", "{c}/l{c}/{c}{i}y.png"]
TWO = ["{c}/{c}{i}.png", "m:{c}/two/{c}{i}.png"]
INNER_ARE_NONE = {"masks": "none", "layout": "class/*"}
INNER = ["{c}/x/{c}{i}.png", "{c}/y/{c}{i}y.png"]


@pytest.mark.promise(ASKED)
@pytest.mark.parametrize(
    ("patterns", "said", "options", "images", "masks"),
    [
        (SIDES, "a/two looks like ground truth", {"mask_name": "*two/*"}, 8, 8),
        (SIDES, "a/two looks like ground truth", INNER_ARE_NONE, 16, 0),
        (["{c}/{c}{i}.png", "m:gt/{c}z{i}q.png"], "hardly any", {"masks": "none"}, 16, 0),
        (["{c}/im/{i}.png", "{c}/label/{i}.png"], "many values", INNER_ARE_NONE, 16, 0),
        (["{c}/{i}.png", "m:{c}/z{i}_mask.png"], "named like masks", {"masks": "none"}, 16, 0),
        (LEFT, "8 files are named like masks", {"masks": "none"}, 16, 0),
        (KINDS, "several kinds.*--mask-name", {"mask_name": "*left*"}, 8, 8),
        (KINDS, "several kinds", {"mask_name": "*"}, 8, 8),
        (READERS, "several kinds", {"mask_name": "*reader1*"}, 8, 8),
        (["images/{i}.png", "m:masks/{i}.png"], "ground truth is in 'masks' .4", None, 0, 0),
        (INNER, "folders of the same names", {"layout": "class/*"}, 16, 0),
        (PATIENTS_ONLY, "for patients or other numbered things", {"layout": "class/*"}, 8, 0),
        (["scan{i}/{c}.png"], "for patients or other numbered things", {"layout": "class/*"}, 8, 0),
        (["JPEGImages/{c}{i}.jpg"], "named for files", {"layout": "class/*"}, 8, 0),
        (["{c}-{i}/{c}.png"], "for patients or other numbered things", {"layout": "class/*"}, 8, 0),
        (ORGANS, "8 files that end in 'liver'", {"masks": "none"}, 24, 0),
        (["{c}/{c}{i}_t1.png", "m:{c}/{c}{i}_z.png"], "in 'z' look", {"mask_name": "*z.*"}, 8, 0),
        (HASHES, "for patients or other numbered things", {"layout": "class/*"}, 8, 0),
        (FORMATS, "named for files", {"layout": "class/*"}, 16, 0),
        (COPY, "a copy of the set", {"layout": "class/*"}, 16, 0),
        (NESTED, "patients, classes or neither", {"layout": "*/class/*"}, 16, 0),
        (TWO, "a/two looks like ground truth", {"mask_name": "*two/*"}, 8, 8),
        (INNER, "folders of the same names", {"layout": "*/class"}, 16, 0),
        (HELD_OUT, "'holdout' next", {"split_name": ["holdout=val"]}, 16, 0),
        (["train_{c}/{i}.png", "test_{c}/{i}.png"], "for splits", {"layout": "class/*"}, 16, 0),
        (FOLDS, "splits of their own", {"layout": "fold1/split/class/*"}, 8, 0),
        (["{c}/train/y{c}/{i}.png"], "hold splits", {"layout": "*/split/class"}, 8, 0),
    ],
)
def test_two_readings_are_refused_and_an_option_chooses(
    tmp_path, paths, patterns, said, options, images, masks
):
    source = grow(tmp_path / "s", *patterns)
    with pytest.raises(ManifestError, match=said) as error:
        add_dataset("d", source, paths=paths)
    assert "--" in error.value.remedy and not list(paths.root.glob("*/*"))
    if options is not None:
        summary = add_dataset("d", source, paths=paths, **options)
        assert (summary.images, summary.masks) == (images, masks)


@pytest.mark.promise(FOLDERS)
@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train2017", "val2017"), ("train", "val")),
        (("1. Training Images", "2. Testing Images"), ("train", "test")),
        (("DevSet", "test_data"), ("val", "test")),
        (("imagesTr", "imagesTs"), ("train", "test")),
        (("fold_1", "fold_2"), ("", "")),
    ],
)
def test_splits_by_other_names_and_folds_are_read(tmp_path, paths, names, splits):
    for name in names:
        grow(tmp_path / "s", f"{name}/{{c}}/{name}{{i}}.png")
    summary = add_dataset("d", tmp_path / "s", paths=paths)
    rows = rows_of(paths)
    assert list(rows.groupby(rows["path"].str.split("/").str[0])["split"].unique()) == [
        [split] for split in splits
    ]
    assert set(rows["label"]) == {"a", "b"}
    assert set(rows["fold"]) == (set(names) if not any(splits) else {""})
    assert any(note.startswith("folders: ") and "class/*" in note for note in summary.notes)


PATIENTS = ["{c}/kind{c}/P{c}{i}/40X/1.png", "{c}/kind{c}/P{c}{i}/100X/2.png"]


@pytest.mark.promise(FOLDERS)
@pytest.mark.parametrize(
    ("patterns", "options", "patients"),
    [
        (PATIENTS, {}, {"Pa0", "Pa3", "Pb0"}),
        (PATIENTS, {"layout": "class/patient/*"}, {"kinda", "kindb"}),
        (PATIENTS, {"patient_regex": "/P([^/]+)/"}, {"a0", "b3"}),
        (PATIENTS, {"patient_regex": "^([12])[.]"}, {"1", "2"}),  # the name alone
        (["P{i}/{c}/1.png", "P{i}/{c}/2.png"], {"layout": "patient/class/*"}, {"P0", "P3"}),
        (["train/{c}/p{c}{i}/1.png", "test/{c}/q{c}{i}/1.png"], {}, {"pa0", "qb3"}),
    ],
)
def test_folders_of_patients_are_found_or_stated(tmp_path, paths, patterns, options, patients):
    summary = add_dataset("d", grow(tmp_path / "s", *patterns), paths=paths, **options)
    rows = rows_of(paths)
    assert patients <= set(rows["patient_id"]) and "" not in set(rows["patient_id"])
    assert set(rows["label"]) == {"a", "b"}
    assert f"patients: {rows['patient_id'].nunique()}" in summary.text()


@pytest.mark.promise("Names and folders that suggest patients who are not known are warned of.")
@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("{c}/P{c}{i}_L_%d.png", 8),
        ("{c}/S21_{c}0{i}-%d.png", 8),
        ("{c}/{c}{c}anna/%d{i}.png", 0),  # a folder for each class
    ],
)
def test_patients_who_are_not_known_are_warned_of_if_names_suggest_them(
    tmp_path, paths, pattern, count
):
    patterns = [pattern % at for at in range(3)]
    said = add_dataset("d", grow(tmp_path / "s", *patterns), paths=paths).warnings
    hints = [warning for warning in said if "patients are not known" in warning]
    assert len(hints) == bool(count)
    if hints:
        regex = hints[0].split("--patient-regex '")[1].split("'")[0]
        again = add_dataset("d", tmp_path / "s", paths=paths, patient_regex=regex)
        assert again.patients == count and f"but {count} " in hints[0]


def test_a_layout_that_is_none_is_refused(tmp_path, paths):
    source = grow(tmp_path / "s", "one/{c}/{i}.png", "two/{c}/{i}.png")
    for layout, said in {
        "patient/*": "must have the level 'class'",
        "split/class": "'one', 'two': not known as a split",
        "three/class": "do not fit the layout 'three/class'",
    }.items():
        with pytest.raises(ManifestError, match=said):
            add_dataset("d", source, paths=paths, layout=layout)
    with pytest.raises(ManifestError, match="--split-name"):
        add_dataset("d", source, paths=paths, layout="split/class", split_name=["one=first"])


@pytest.mark.promise(ASKED)
@pytest.mark.parametrize("second", ["mask", "picture"])
def test_a_second_page_that_is_the_mask_of_the_first_is_asked_about(tmp_path, paths, second):
    for c, i in product("ab", range(3)):
        path = tmp_path / "s" / c / f"{i}.tif"
        first = Image.open(picture(tmp_path / "p.png", seed=10 * ord(c) + i))
        mask(tmp_path / "m.png", 20 + i)
        page = Image.open(tmp_path / "m.png") if second == "mask" else first.rotate(180)
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, save_all=True, append_images=[page])
    if second == "mask":
        with pytest.raises(ManifestError, match="6 files have two pages, and the second looks"):
            add_dataset("d", tmp_path / "s", paths=paths)
        assert not paths.manifest("d").exists()
    assert add_dataset("d", tmp_path / "s", paths=paths, masks="none").images == 12


@pytest.mark.promise("Names and folders that suggest patients who are not known are warned of.")
def test_many_small_classes_are_warned_of(tmp_path, paths):
    source = grow(tmp_path / "s", "{c}/{c}{i}.png", classes="abcdefgh", count=2)
    said = add_dataset("d", source, paths=paths).warnings
    assert any("8 classes have 2 images on average: if they are rather patients" in w for w in said)


@pytest.mark.promise(BY_NAME)
@pytest.mark.parametrize("name", ["SEG/1", "masks/1", "CT/seg"])
def test_a_series_of_segmentations_is_no_folder_of_masks(tmp_path, paths, name):
    for c, at in product("ab", range(4)):
        seg = dicom(grey(), SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
        for file, made in {"CT/1": dicom(grey(seed=at)), name: seg}.items():
            path = tmp_path / "x" / c / f"P{c}{at}" / f"{file}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_dicom(made, path)
    summary = add_dataset("d", tmp_path / "x", paths=paths)
    assert summary.images == 8 and summary.masks == 0
    assert [n for why, n in summary.skipped.items() if "SEG" in why] == [8]


@pytest.mark.promise(FOLDERS)
def test_words_of_other_scripts_are_no_splits(tmp_path, paths):
    """`test阳性` (positive) is a class."""
    source = grow(tmp_path / "s", "test阳性/{c}{i}.png", "test阴性/{c}{i}.png")
    frame = add_dataset("d", source, paths=paths).frame
    assert set(frame["label"]) == {"test阳性", "test阴性"}
    assert set(frame["split"]) == {""}


@pytest.mark.promise(ASKED)
def test_copies_and_thumbnails_are_warned_of(tmp_path, paths):
    source = grow(tmp_path / "s", "{c}/{c}{i}.png", "{c}/small/{c}{i}.png", "{c}/{c}{i}.bmp")
    for i in range(4):
        picture(source / "c" / f"c{i}.png", seed=i)  # the bytes of a
    warnings = "\n".join(add_dataset("d", source, paths=paths).warnings)
    assert "8 images are named 'small/' after another one" in warnings
    assert "8 images are named '.png' after another one" in warnings
    assert "8 images have the same bytes as one of another class" in warnings


def test_many_files_of_one_beginning_take_no_quadratic_time():
    """Classes with files of the same names, `img_00001`."""
    names = [f"{c}/img_{i:05}.png" for c in "abc" for i in range(3000)]
    images = Images(names[3000:])
    start = time.process_time()
    assert all(images.of(f"img_{i:05}") == ([], "") for i in range(3000))
    assert time.process_time() - start < 2
