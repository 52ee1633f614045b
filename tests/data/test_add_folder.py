"""Intake of folders: classes, splits, hostile names, junk, bad files, adding again."""

from __future__ import annotations

import os
import shutil

import pytest

from pipeline.errors import ManifestError
from pipeline.images import read_image
from pipeline.intake import add_dataset, refresh_dataset
from pipeline.io import sha256_file
from pipeline.manifest import read_manifest, row_file, write_manifest
from tests.data.conftest import picture


def test_folders_are_splits_and_classes_and_every_row_opens_at_its_size(scans, paths):
    summary = add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d"), data=paths.data("d"), check_files=True)
    assert summary.counts == {"test": {"cat": 6, "dog": 6}, "train": {"cat": 6, "dog": 6}}
    assert len(frame) == summary.images == 24
    for row in frame.itertuples():
        file = row_file(row, paths.data("d"))
        assert read_image(file, row.frame).shape == (row.height, row.width, 3)
        assert row.sha256 == sha256_file(file)
        assert (row.image_id, row.synthetic) == (row.path, "0")


def test_a_folder_of_classes_alone_has_no_splits(scans, paths):
    add_dataset("d", scans / "train", paths=paths)
    assert set(read_manifest(paths.manifest("d"))["split"]) == {""}


def test_data_is_a_link_to_the_images_which_stay_where_they_are(scans, paths):
    add_dataset("d", scans, paths=paths)
    assert paths.data("d").is_symlink()
    assert paths.data("d").resolve() == scans.resolve()


@pytest.mark.parametrize(
    "name",
    ["it's.png", 'a"b.png', "two\nlines.png", "[0-9]*.png", "影像.png", " .png", "a.b.c.PNG",
     "comma,semi;.png", "-rf.png", "#1.png", "%41.png", "a\rb.png"],
)  # fmt: skip
def test_hostile_names_survive(scans, paths, name):
    picture(scans / "train" / "cat" / name, seed=7)
    add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d"), data=paths.data("d"), check_files=True)
    assert f"train/cat/{name}" in set(frame["image_id"])


def test_equal_names_in_two_folders_and_two_spellings_have_ids_of_their_own(scans, paths):
    picture(scans / "train" / "cat" / "sub" / "0.png", seed=50)
    picture(scans / "train" / "cat" / "0.jpg", seed=51)
    picture(scans / "train" / "cat" / "\u00e9.png", seed=52)
    picture(scans / "train" / "cat" / "e\u0301.png", seed=53)
    add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d"))
    assert frame["image_id"].is_unique
    assert len(frame) == 28


def test_junk_is_counted_and_never_a_class(scans, paths):
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (scans / "train" / "cat" / name).write_bytes(b"junk")
    for folder in ("__MACOSX", ".ipynb_checkpoints"):
        picture(scans / folder / "x.png")
        picture(scans / "train" / folder / "x.png")
    (scans / "train" / "cat" / "notes.txt").write_text("x")
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 24
    assert summary.skipped == {
        "file left by a system or notebook": 3,
        "folder left by a system or notebook": 4,
        "not an image (.txt)": 1,
    }


def test_bad_files_are_named_with_the_reason_and_the_rest_is_added(scans, paths):
    cat = scans / "train" / "cat"
    (cat / "empty.png").touch()
    (cat / "page.jpg").write_text("<!DOCTYPE html><html>")
    (cat / "text.png").write_text("hello there, this is text")
    (cat / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(cat / "pipe.png")
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 24
    reasons = {path.rsplit("/", 1)[1]: why for path, why in summary.failed.items()}
    assert set(reasons) == {"empty.png", "page.jpg", "text.png", "dangling.png", "pipe.png"}
    assert "zero bytes" in reasons["empty.png"]
    assert "web page" in reasons["page.jpg"]
    assert "broken link" in reasons["dangling.png"]
    assert "pipe" in reasons["pipe.png"]
    assert "FAILED train/cat/empty.png" in summary.text()


def test_a_folder_of_which_nothing_can_be_read_is_refused_and_nothing_is_written(tmp_path, paths):
    for label in ("a", "b"):
        (tmp_path / "bad" / label).mkdir(parents=True)
        (tmp_path / "bad" / label / "x.png").write_bytes(b"no")
    with pytest.raises(ManifestError, match="none of 2 images can be read"):
        add_dataset("d", tmp_path / "bad", paths=paths)
    assert not paths.manifest("d").exists()
    assert not paths.data("d").is_symlink()


def test_links_that_run_in_circles_end(scans, paths):
    (scans / "train" / "cat" / "loop").symlink_to(scans, target_is_directory=True)
    assert add_dataset("d", scans, paths=paths).images == 24


def test_a_wrong_name_suffix_does_not_matter(scans, paths):
    shutil.move(scans / "train" / "cat" / "0.png", scans / "train" / "cat" / "0.jpg")
    assert add_dataset("d", scans, paths=paths).images == 24


def test_pages_of_a_file_are_rows(scans, paths):
    from PIL import Image

    pages = [Image.new("L", (8, 6), shade) for shade in (10, 20, 30)]
    pages[0].save(scans / "train" / "cat" / "m.tif", save_all=True, append_images=pages[1:])
    add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d")).set_index("image_id")
    ids = [f"train/cat/m.tif#{i}" for i in range(3)]
    assert frame.loc[ids, "frame"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: picture(root / "other" / "0.png"), "'other' beside the split folders"),
        (lambda root: shutil.rmtree(root), "no such folder"),
    ],
)
def test_a_folder_of_another_shape_is_refused(scans, paths, spoil, expected):
    spoil(scans)
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", scans, paths=paths)


@pytest.mark.parametrize(
    "strays",
    [
        ["wrap/readme.png"],
        ["readme.png"],
        ["wrap/readme.png", "a.png"],
        ["wrap/inner/cover.png", "wrap/b.png"],
    ],
)
@pytest.mark.parametrize("below", ["", "train"])
def test_a_stray_image_in_or_beside_a_wrapping_folder_makes_it_no_class(
    scans, tmp_path, paths, strays, below
):
    inner = "wrap/inner" if "inner" in "".join(strays) else "wrap"
    shutil.copytree(scans / below, tmp_path / "h" / inner)
    for at, name in enumerate(strays):
        picture(tmp_path / "h" / name, seed=70 + at)
    summary = add_dataset("d", tmp_path / "h", paths=paths)
    classes = {"cat": 6, "dog": 6}
    assert summary.counts == ({"": classes} if below else {"test": classes, "train": classes})
    assert summary.skipped == {"image in no class folder": len(strays)}
    (warning,) = summary.warnings
    assert f"{len(strays)} images lie in no class folder" in warning
    assert all(name.rsplit("/", 1)[-1] in warning for name in strays)
    assert paths.data("d").resolve() == (tmp_path / "h" / inner).resolve()


def test_splits_below_a_wrapping_folder_are_found_whatever_lies_beside_it(scans, tmp_path, paths):
    shutil.copytree(scans, tmp_path / "h" / "wrap")
    (tmp_path / "h" / "docs").mkdir()
    (tmp_path / "h" / "docs" / "licence.txt").write_text("free")
    assert set(add_dataset("d", tmp_path / "h", paths=paths).counts) == {"train", "test"}


def test_folders_below_a_class_are_no_classes_and_a_single_class_is_warned_of(
    scans, tmp_path, paths
):
    for at in range(6):
        picture(tmp_path / "h" / "cat" / f"p{at}" / "x.png", seed=at)
    (tmp_path / "h" / "dog").mkdir()
    summary = add_dataset("d", tmp_path / "h", paths=paths)
    assert summary.counts == {"": {"cat": 6}}
    assert "all images are of one class, 'cat': check the folders" in summary.warnings


def test_images_without_class_folders_are_refused(tmp_path, paths):
    picture(tmp_path / "flat" / "a.png")
    with pytest.raises(ManifestError, match="in no class folder"):
        add_dataset("d", tmp_path / "flat", paths=paths)


def test_empty_classes_and_classes_that_a_split_lacks_are_warned_of(scans, paths):
    (scans / "train" / "bird").mkdir()
    picture(scans / "train" / "fox" / "x.png")
    text = "\n".join(add_dataset("d", scans, paths=paths).warnings)
    assert "'train/bird' holds no images" in text
    assert "no test image of class 'fox'" in text
    assert "class 'fox' has 1 image only: too few" in text
    assert "the patient is known" not in text


def test_patients_known_for_a_part_of_the_images_are_warned_of(tmp_path, paths):
    for at, name in enumerate(("person1_virus_1", "person1_bacteria_2", "scan_3", "scan_4")):
        picture(tmp_path / "half" / "ab"[at % 2] / f"{name}.png", seed=at)
    summary = add_dataset("d", tmp_path / "half", paths=paths, patient_regex=r"(person\d+)")
    text = "\n".join(summary.warnings)
    assert "the patient is known for 2 of 4 images only" in text and "--patient-regex" in text


def test_adding_the_same_folder_again_brings_what_is_new_gone_and_changed(scans, paths):
    add_dataset("d", scans, paths=paths)
    again = add_dataset("d", scans, paths=paths)
    assert again.changed == {"added": 0, "removed": 0, "changed": 0}
    picture(scans / "train" / "cat" / "new.png", seed=1)
    picture(scans / "train" / "cat" / "0.png", seed=2)
    (scans / "test" / "dog" / "5.png").unlink()
    third = add_dataset("d", scans, paths=paths)
    assert third.changed == {"added": 1, "removed": 1, "changed": 1}


def test_prompts_that_only_the_manifest_has_survive_adding_again(scans, paths):
    add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d"))
    frame.loc[3, "box"] = "1,1,5,5"
    write_manifest(frame, paths.manifest("d"))
    add_dataset("d", scans, paths=paths)
    assert read_manifest(paths.manifest("d")).loc[3, "box"] == "1,1,5,5"


def test_a_corrected_label_is_not_lost_without_force(scans, paths):
    add_dataset("d", scans, paths=paths)
    frame = read_manifest(paths.manifest("d"))
    frame.loc[0, "label"] = "dog"
    write_manifest(frame, paths.manifest("d"))
    with pytest.raises(ManifestError, match=r"label of 1 images \(test/cat/0.png: 'dog' -> 'cat'"):
        add_dataset("d", scans, paths=paths)
    add_dataset("d", scans, paths=paths, force=True)
    assert read_manifest(paths.manifest("d")).loc[0, "label"] == "cat"


def test_another_folder_under_the_same_name_is_refused_with_the_difference(scans, paths, tmp_path):
    add_dataset("d", scans, paths=paths)
    other = tmp_path / "other"
    shutil.copytree(scans / "train", other)
    before = paths.manifest("d").read_bytes()
    with pytest.raises(ManifestError, match="24 images of another folder"):
        add_dataset("d", other, paths=paths)
    assert paths.manifest("d").read_bytes() == before
    assert paths.data("d").resolve() == scans.resolve()
    add_dataset("d", other, paths=paths, force=True)
    assert paths.data("d").resolve() == other.resolve()
    assert (scans / "train" / "cat" / "0.png").exists()


def test_refresh_takes_new_bytes_and_sizes_and_names_lost_files(scans, paths):
    add_dataset("d", scans, paths=paths)
    picture(scans / "train" / "cat" / "0.png", seed=9, size=(30, 20))
    (scans / "train" / "cat" / "1.png").unlink()
    summary = refresh_dataset("d", paths=paths)
    assert summary.changed["changed"] == 1
    assert list(summary.failed) == ["train/cat/1.png"]
    row = read_manifest(paths.manifest("d")).set_index("image_id").loc["train/cat/0.png"]
    assert (row["width"], row["height"]) == (30, 20)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden"])
def test_a_dataset_name_that_is_no_file_name_is_refused(scans, paths, name):
    with pytest.raises(ManifestError, match="not a valid dataset name"):
        add_dataset(name, scans, paths=paths)


def test_progress_counts_every_file(scans, paths):
    seen = []
    add_dataset("d", scans, paths=paths, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == list(range(1, 25))
