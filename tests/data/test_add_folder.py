"""Intake of folders: classes, splits, hostile names, junk, bad files, adding again."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.status import status_rows
from pipeline.errors import ManifestError
from pipeline.images import SkippedFile, patient_code, probe, read_image, read_mask
from pipeline.intake import add_dataset
from pipeline.io import sha256_file
from pipeline.manifest import read_manifest, row_file, write_manifest
from tests.data.conftest import CLASSES, mask, pages, picture, rows_of
from tests.images.makers import dicom, grey, save_dicom, save_nifti, turned

WRAPPED = (
    "A folder that wraps a set is looked through, whatever stray image is in it or next to it: "
    "classes and splits are found and the image is named; a set of one class is warned of."
)


@pytest.mark.promise(
    "A folder of splits and classes becomes one row per image, which opens at the size stated."
)
@pytest.mark.promise("Pages, frames and slices are rows with a frame index.")
def test_folders_are_splits_and_classes_and_every_row_opens_at_its_size(scans, paths):
    cat, counts = scans / "train" / "cat", {"0.jpg": 1, "p.tif": 3, "f.dcm": 3, "s.nii.gz": 4}
    shutil.move(cat / "0.png", cat / "0.jpg")  # content decides
    pages(cat / "p.tif", 3)
    frames = np.stack([grey(seed=s).astype(np.uint16) * 9 for s in range(3)])
    save_dicom(dicom(frames, frames=3), cat / "f.dcm")
    volume = np.stack([grey(14, 11, seed=s).T.astype(np.int16) * 9 for s in range(4)], axis=2)
    save_nifti(volume, cat / "s.nii.gz")
    Image.fromarray(grey()).save(cat / "1.png", exif=turned(6))
    summary = add_dataset("d", scans, paths=paths, masks="none")
    frame = rows_of(paths)
    assert summary.counts == {"test": CLASSES, "train": {"cat": 16, "dog": 6}}
    assert len(frame) == summary.images == 34
    said = "27 image files became 34 rows: 3 hold 10 pages, frames or slices"
    assert said in summary.notes
    found = frame["path"].value_counts()
    assert {name: found[f"train/cat/{name}"] for name in counts} == counts
    for row in frame.itertuples():
        file = row_file(row, paths.data("d"))
        assert read_image(file, row.frame).shape == (row.height, row.width, 3)
        assert row.sha256 == sha256_file(file)
        assert row.synthetic == "0"
        assert row.image_id == row.path + f"#{row.frame}" * bool(found[row.path] > 1)
        assert row.patient_id == (patient_code(file) if row.path.endswith("dcm") else "")
    assert paths.data("d").is_symlink() and paths.data("d").resolve() == scans.resolve()
    add_dataset("e", scans / "train", paths=paths, masks="none")
    assert set(rows_of(paths, "e")["split"]) == {""}


@pytest.mark.promise("Hostile and colliding names are only names.")
def test_hostile_and_colliding_names_survive(scans, paths):
    names = ["it's.png", 'a"b.png', "two\nlines.png", "[0-9]*.png", "影像.png", " .png", "-rf.png"]
    names += ["a.b.c.PNG", ",;.png", "#1.png", "%41.png", "a\rb.png", "sub/0.png", "0.jpg"]
    names += ["\u00e9.png", "e\u0301.png"]
    for seed, name in enumerate(names):
        picture(scans / "train" / "cat" / name, seed=500 + seed)
    (scans / os.fsdecode(b"train/cat/latin-\xe9.png")).write_bytes(b"")
    summary = add_dataset("d", scans, paths=paths)
    frame = rows_of(paths)
    assert {f"train/cat/{name}" for name in names} < set(frame["image_id"])
    assert frame["image_id"].is_unique and len(frame) == 24 + len(names)
    assert summary.skipped == {"file name is not UTF-8 (rename it)": 1}


@pytest.mark.promise("Files left by macOS, Windows and notebooks are counted and never a class.")
def test_junk_is_counted_and_never_a_class(scans, paths):
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (scans / "train" / "cat" / name).write_bytes(b"junk")
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        picture(scans / folder / "x.png")
        picture(scans / "train" / folder / "x.png")
    (scans / "train" / "cat" / "notes.txt").write_text("x")
    (scans / "train" / "cat" / "loop").symlink_to(scans, target_is_directory=True)
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 24
    assert sorted(summary.skipped.values()) == [1, 1, 3, 4]
    assert summary.skipped["not an image (.txt)"] == 1


@pytest.mark.promise(
    "What `data add` left out is on record by name and reason, for status and report."
)
@pytest.mark.promise("Bad files are named and the good ones are taken.")
def test_bad_files_are_named_with_the_reason_and_the_rest_is_added(scans, paths):
    cat = scans / "train" / "cat"
    (cat / "empty.png").touch()
    (cat / "page.jpg").write_text("<!DOCTYPE html><html>")
    (cat / "link.png").symlink_to("nowhere.png")
    os.mkfifo(cat / "pipe.png")
    mask(cat / "1_mask.png", 5, size=(5, 5))
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 24
    words = {"empty.png": "zero bytes", "link.png": "link", "page.jpg": "web", "pipe.png": "pipe"}
    assert list(summary.failed) == [f"train/cat/{name}" for name in words]
    assert all(map(str.__contains__, summary.failed.values(), words.values()))
    assert "FAILED train/cat/empty.png" in summary.text()
    made = json.loads(paths.record("d", "add").read_text(encoding="utf-8"))
    assert (made["status"], made["total"], made["done"]) == ("failed", 28, 24)
    assert made["failed"] == summary.failed and str(scans) not in json.dumps(made)
    assert list(made["parameters"]["masks_left_out"]) == ["train/cat/1.png"]
    assert made["parameters"]["skipped"] == {"ground-truth mask next to its image": 1}
    first = status_rows(paths, ["d"])[0]
    assert (first["stage"], first["status"], first["failed"]) == ("add", "failed", 4)


@pytest.mark.promise(
    "`data add` counts a DICOMDIR and DICOM objects without pixels by reason and takes the images."
)
@pytest.mark.promise("A DICOMDIR and DICOM objects without pixels are skipped with the reason.")
def test_a_dicomdir_and_objects_without_pixels_are_counted_and_the_image_is_taken(scans, paths):
    report, cat = dicom(grey()), scans / "train" / "cat"
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        delattr(report, name)
    index, kind = "a DICOMDIR, an index of other files", report.SOPClassUID
    empty = "a DICOM object without pixels (report, plan or presentation state)"
    named = "DICOM structured or dose report, not an image"
    save_dicom(dicom(grey()), cat / "IM0001")
    for file, uid, whys in (
        (scans / "DICOMDIR", "1.2.840.10008.1.3.10", {index}),
        (cat / "DICOMDIR", "1.2.840.10008.1.3.10", {index}),
        (cat / "SR", "1.2.840.10008.5.1.4.1.1.88.11", {named, empty}),
        (cat / "plan", kind, {empty}),
    ):
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = uid
        save_dicom(report, file)
        for read in (probe, read_image, read_mask):
            with pytest.raises(SkippedFile) as caught:
                read(file)
            assert caught.value.message in whys
    summary = add_dataset("d", scans, paths=paths)
    assert not summary.failed and "train/cat/IM0001" in rows_of(paths).index
    assert summary.images == 25 and summary.skipped == {index: 2, named: 1, empty: 1}


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: picture(root / "other" / "0.png"), "'other' next to the split folders"),
        (lambda root: shutil.rmtree(root), "no such folder"),
        (lambda root: [f.write_bytes(b"no") for f in root.rglob("*.png")], "none of 24 images"),
        (lambda root: [shutil.rmtree(root), picture(root / "a.png")], "in no class folder"),
    ],
    ids=["class beside splits", "missing", "unreadable", "no classes"],
)
def test_a_folder_that_cannot_be_used_is_refused_and_nothing_is_written(
    scans, paths, spoil, expected
):
    spoil(scans)
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", scans, paths=paths)
    assert not list(paths.root.glob("*/*"))


@pytest.mark.promise(WRAPPED)
@pytest.mark.parametrize(
    ("inner", "strays"),
    [
        ("wrap", ["wrap/readme.png", "a.png"]),
        ("wrap/inner", ["wrap/inner/cover.png", "wrap/b.png"]),
    ],
)
def test_a_stray_image_does_not_turn_a_wrapping_folder_into_a_class(
    scans, tmp_path, paths, inner, strays
):
    shutil.copytree(scans / "train", tmp_path / "h" / inner)
    for at, name in enumerate(strays):
        picture(tmp_path / "h" / name, seed=70 + at)
    summary = add_dataset("d", tmp_path / "h", paths=paths)
    assert summary.counts == {"": CLASSES}
    assert list(summary.skipped.values()) == [len(strays)]
    (warning,) = summary.warnings
    assert all(name.rsplit("/", 1)[-1] in warning for name in strays)
    assert paths.data("d").resolve() == (tmp_path / "h" / inner).resolve()


@pytest.mark.promise(WRAPPED)
def test_splits_in_a_wrapping_folder_and_a_single_class_are_told_apart(scans, tmp_path, paths):
    shutil.copytree(scans, tmp_path / "h" / "wrap")
    (tmp_path / "h" / "docs").mkdir()
    (tmp_path / "h" / "docs" / "licence.txt").write_text("free")
    assert set(add_dataset("d", tmp_path / "h", paths=paths).counts) == {"train", "test"}
    for at in range(6):
        picture(tmp_path / "one" / "cat" / f"p{at}" / "x.png", seed=at)
    (tmp_path / "one" / "dog").mkdir()
    summary = add_dataset("one", tmp_path / "one", paths=paths)
    assert summary.counts == {"": {"cat": 6}}
    assert any("one class, 'cat'" in warning for warning in summary.warnings)


def test_odd_classes_are_warned_of(scans, paths):
    for name in ("fox", "Masks", "CAT"):
        picture(scans / "train" / name / "x.png")
    text = "\n".join(add_dataset("d", scans, paths=paths).warnings)
    for words in (
        "no test image of class 'CAT', 'Masks', 'fox'",
        "class 'fox' has too few images to train and test: 1",
        "'Masks' looks like ground truth",
        "'CAT', 'cat' differ only by case",
    ):
        assert words in text


@pytest.mark.promise(
    "Adding a folder again brings the manifest up to date and keeps what only it knows."
)
def test_adding_again_brings_what_is_new_and_keeps_what_only_the_manifest_has(scans, paths):
    add_dataset("d", scans, paths=paths)
    again = add_dataset("d", scans, paths=paths)
    assert again.changed == {"added": 0, "removed": 0, "changed": 0}
    frame = read_manifest(paths.manifest("d"))
    frame.loc[3, "box"] = "1,1,5,5"
    write_manifest(frame, paths.manifest("d"))
    picture(scans / "train" / "cat" / "new.png", seed=1)
    picture(scans / "train" / "cat" / "0.png", seed=2)
    (scans / "test" / "dog" / "5.png").unlink()
    third = add_dataset("d", scans, paths=paths)
    assert third.changed == {"added": 1, "removed": 1, "changed": 1}
    assert read_manifest(paths.manifest("d")).loc[3, "box"] == "1,1,5,5"
    frame.loc[0, "label"] = "dog"
    write_manifest(frame, paths.manifest("d"))
    with pytest.raises(ManifestError, match=r"label of 1 images \(test/cat/0.png: 'dog' -> 'cat'"):
        add_dataset("d", scans, paths=paths)
    add_dataset("d", scans, paths=paths, force=True)
    assert read_manifest(paths.manifest("d")).loc[0, "label"] == "cat"


def test_another_folder_under_the_same_name_is_refused(scans, paths):
    add_dataset("d", scans, paths=paths)
    before = paths.manifest("d").read_bytes()
    with pytest.raises(ManifestError, match="24 images of another folder"):
        add_dataset("d", scans / "train", paths=paths)
    assert paths.manifest("d").read_bytes() == before
    assert paths.data("d").resolve() == scans.resolve()
    add_dataset("d", scans / "train", paths=paths, force=True)
    assert paths.data("d").resolve() == (scans / "train").resolve()


@pytest.mark.parametrize("name", ["", "../x", "a b"])
def test_a_dataset_name_that_is_no_file_name_is_refused(scans, paths, name):
    with pytest.raises(ManifestError, match="dataset name"):
        add_dataset(name, scans, paths=paths)
