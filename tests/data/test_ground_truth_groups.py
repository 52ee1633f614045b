"""Masks, groups and patients are joined by name, and what does not fit is said."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.images import read_mask
from pipeline.intake import add_dataset, group_dataset, refresh_dataset
from pipeline.intake.patients import patients_from_names
from pipeline.manifest import mask_file, read_manifest, write_manifest
from tests.data.conftest import picture


def mask(path, area, size=(12, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels.flat[:area] = 255
    Image.fromarray(pixels).save(path)


def rows_of(paths):
    return read_manifest(paths.manifest("d")).set_index("image_id", drop=False)


def test_masks_are_found_by_stem_in_mirrored_folders_with_their_area(scans, paths, tmp_path):
    masks = tmp_path / "scan_masks"
    mask(masks / "train" / "cat" / "0.png", 7)
    mask(masks / "train" / "dog" / "0.png", 0)
    mask(masks / "test" / "cat" / "3_mask.png", 4)
    mask(masks / "test" / "cat" / "99.png", 4)
    summary = add_dataset("d", scans, paths=paths, masks=masks)
    rows = rows_of(paths)
    assert rows.loc["train/cat/0.png", "mask_area"] == "7"
    assert rows.loc["train/dog/0.png", "mask_area"] == "0"
    assert rows.loc["test/cat/3.png", "mask_area"] == "4"
    assert rows.loc["test/cat/0.png", "mask_path"] == ""
    assert summary.masks == 3
    assert any("1 masks in scan_masks belong to no image" in w for w in summary.warnings)
    file = mask_file(rows.loc["train/cat/0.png"], paths.data("d"))
    assert read_mask(file).sum() == 7


def test_a_manifest_with_masks_beside_the_images_names_no_machine_path(scans, paths, tmp_path):
    mask(tmp_path / "m" / "train" / "cat" / "0.png", 7)
    add_dataset("d", scans, paths=paths, masks=tmp_path / "m")
    assert str(tmp_path) not in paths.manifest("d").read_text()


def test_masks_inside_the_image_folder_are_no_class(scans, paths):
    mask(scans / "masks" / "train" / "cat" / "0.png", 5)
    summary = add_dataset("d", scans, paths=paths, masks=scans / "masks")
    assert summary.images == 24
    assert rows_of(paths).loc["train/cat/0.png", "mask_path"] == "masks/train/cat/0.png"


def test_a_mask_of_another_size_or_that_is_broken_is_left_out_by_name(scans, paths, tmp_path):
    mask(tmp_path / "m" / "train" / "cat" / "0.png", 7, size=(9, 12))
    mask(tmp_path / "m" / "train" / "cat" / "1.png", 7)
    (tmp_path / "m" / "train" / "cat" / "2.png").write_bytes(b"no mask")
    summary = add_dataset("d", scans, paths=paths, masks=tmp_path / "m")
    assert summary.masks == 1
    text = "\n".join(summary.warnings)
    assert "train/cat/0.png" in text
    assert "train/cat/2.png" in text


def test_a_mask_that_is_left_out_is_not_put_back_from_the_manifest_of_before(
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
    rows = rows_of(paths)
    left = rows[rows["mask_path"] != ""]
    assert list(left.index) == ["train/cat/2.png"] and list(left["mask_area"]) == ["7"]
    assert set(rows.drop(index="train/cat/2.png")["mask_area"]) == {""}


def test_refresh_keeps_masks_that_are_away_or_broken_and_names_their_rows(scans, paths, tmp_path):
    masks = tmp_path / "m"
    for i in range(4):
        mask(masks / "train" / "cat" / f"{i}.png", 7)
    add_dataset("d", scans, paths=paths, masks=masks)
    before = paths.manifest("d").read_bytes()

    def refreshed():
        failed = refresh_dataset("d", paths=paths).failed
        assert paths.manifest("d").read_bytes() == before
        return failed

    masks.rename(tmp_path / "away")
    failed = refreshed()
    assert list(failed) == [f"train/cat/{i}.png" for i in range(4)]
    for name, why in failed.items():
        assert f"m/{name} does not exist" in why and "put it back" in why
    (tmp_path / "away").rename(masks)
    assert not refreshed()
    (masks / "train" / "cat" / "1.png").write_bytes(b"no mask")
    mask(masks / "train" / "cat" / "2.png", 7, size=(9, 12))
    assert list(refreshed()) == ["train/cat/1.png", "train/cat/2.png"]
    mask(masks / "train" / "cat" / "1.png", 7)
    mask(masks / "train" / "cat" / "2.png", 5)
    assert not refresh_dataset("d", paths=paths).failed
    rows = rows_of(paths)
    assert rows.loc[rows["mask_path"] != "", "mask_area"].tolist() == ["7", "7", "5", "7"]
    rows.loc["train/cat/2.png", "mask_path"] = ""  # as the remedy says
    write_manifest(rows, paths.manifest("d"))
    assert refresh_dataset("d", paths=paths).masks == 3
    assert rows_of(paths)["mask_area"].tolist().count("") == 24 - 3


def test_two_images_of_one_stem_take_a_mask_only_by_full_name(scans, paths, tmp_path):
    picture(scans / "train" / "cat" / "0.bmp", seed=70)
    mask(tmp_path / "m" / "train" / "cat" / "0.png", 7)
    summary = add_dataset("d", scans, paths=paths, masks=tmp_path / "m")
    rows = rows_of(paths)
    assert rows.loc["train/cat/0.png", "mask_area"] == "7"
    assert rows.loc["train/cat/0.bmp", "mask_path"] == ""
    assert any("share a stem" in w for w in summary.warnings)


def test_a_table_of_masks_is_read_up_to_its_rank(scans, paths, tmp_path):
    mask(tmp_path / "m" / "good.png", 7)
    mask(tmp_path / "m" / "bad.png", 7)
    (tmp_path / "masks.csv").write_text(
        "path,mask,rank\nscans/train/cat/0.png,m/good.png,5\nscans/train/cat/1.png,m/bad.png,6\n"
    )
    summary = add_dataset("d", scans, paths=paths, masks=tmp_path / "masks.csv")
    rows = rows_of(paths)
    assert rows.loc["train/cat/0.png", "mask_area"] == "7"
    assert rows.loc["train/cat/1.png", "mask_path"] == ""
    assert any("1 masks of masks.csv with a rank above 5" in w for w in summary.warnings)


def test_masks_that_fit_no_image_are_an_error(scans, paths, tmp_path):
    mask(tmp_path / "m" / "elsewhere.png", 7)
    with pytest.raises(ManifestError, match="no mask fits an image"):
        add_dataset("d", scans, paths=paths, masks=tmp_path / "m")


@pytest.mark.parametrize("prefix", ["", "scans/"])
def test_groups_are_joined_by_path_from_the_folder_or_the_one_above(scans, paths, tmp_path, prefix):
    (tmp_path / "g.csv").write_text(
        "path,slice,series,fold,publisher_label\n"
        f"{prefix}train/cat/0.png,s1,007,1,cat\n{prefix}train/dog/1.png,s2,008,2,cat\n"
    )
    summary = add_dataset("d", scans, paths=paths, groups=tmp_path / "g.csv")
    rows = rows_of(paths)
    assert rows.loc["train/cat/0.png", ["group", "fold"]].tolist() == ["007", "1"]
    assert rows.loc["train/dog/1.png", ["group", "fold"]].tolist() == ["008", "2"]
    assert any("1 images have another label" in w for w in summary.warnings)


@pytest.mark.parametrize("listed", ["frames", "files"])
def test_a_file_named_in_a_table_of_groups_is_all_its_frames(tmp_path, paths, listed):
    folder = tmp_path / "t"
    folder.mkdir()
    for name in ("a", "b"):
        pages = [Image.fromarray(np.full((9, 12), 40 * i + 30, np.uint8)) for i in range(3)]
        pages[0].save(folder / f"{name}.tif", save_all=True, append_images=pages[1:])
    rows = [f"{n}.tif,{f},{n}" for n in ("a", "b") for f in range(3)]
    if listed == "files":
        rows = [f"{n}.tif,,{n}" for n in ("a", "b")]
    (folder / "table.csv").write_text("\n".join(["path,frame,label", *rows]) + "\n")
    (tmp_path / "g.csv").write_text("path,series\na.tif,7\nb.tif,8\n")
    add_dataset("d", folder / "table.csv", paths=paths, groups=tmp_path / "g.csv")
    assert rows_of(paths)["group"].tolist() == ["7"] * 3 + ["8"] * 3
    (tmp_path / "g.csv").write_text("image_id,fold\na.tif#1,2\nb.tif,1\n")
    said = group_dataset("d", tmp_path / "g.csv", paths=paths)
    assert rows_of(paths)["fold"].tolist() == ["", "2", "", "1", "1", "1"]
    assert "groups of 4 of 6 images joined" in said[0]
    (tmp_path / "g.csv").write_text("image_id,fold\na.tif#1,2\na.tif,1\n")
    with pytest.raises(ManifestError, match=r"line 3: 'a\.tif' for the second time"):
        group_dataset("d", tmp_path / "g.csv", paths=paths)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,series\nnowhere.png,1\n", "knows none of the images"),
        ("path,colour\ntrain/cat/0.png,1\n", "no column that groups"),
        ("name,series\ntrain/cat/0.png,1\n", "no column 'image_id'"),
        ("path,series\ntrain/cat/0.png,1\ntrain/cat/0.png,2\n", "for the second time"),
    ],
)
def test_groups_that_cannot_be_joined_are_refused_with_the_cause(
    scans, paths, tmp_path, text, expected
):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", scans, paths=paths, groups=tmp_path / "g.csv")


def test_the_patient_is_read_from_the_names_of_the_chest_set():
    names = [
        "train/bacterial/person1000_bacteria_2931.jpeg",
        "train/viral/person1000_virus_1681.jpeg",
        "train/normal/NORMAL2-IM-0516-0001-0002.jpeg",
        "train/normal/IM-0115-0001.jpeg",
    ]
    assert patients_from_names(names) == ["person1000", "person1000", "NORMAL2-IM-0516", "IM-0115"]


def test_other_names_name_no_patient_unless_a_pattern_says_how():
    names = ["a/0001.png", "a/case7_x.png", "a/person1_bacteria_2.jpeg"]
    assert patients_from_names(names) == ["", "", ""]
    assert patients_from_names(names, r"case(\d+)") == ["", "7", ""]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("(", "not a regular expression"), ("a", "has no group"), ("(zzz)", "matches none")],
)
def test_a_pattern_that_cannot_work_is_refused(pattern, expected):
    with pytest.raises(ManifestError, match=expected):
        patients_from_names(["a/1.png"], pattern)


def test_a_patient_whose_name_is_in_two_splits_leaves_train_and_test_stays_whole(tmp_path, paths):
    for name in (
        "train/viral/person1_virus_6.png",
        "train/viral/person2_virus_7.png",
        "test/bacterial/person1_bacteria_1.png",
        "train/bacterial/person3_bacteria_9.png",
    ):
        picture(tmp_path / "chest" / name, seed=len(name))
    summary = add_dataset("d", tmp_path / "chest", paths=paths)
    rows = rows_of(paths)
    assert rows.loc["train/viral/person1_virus_6.png", "split"] == ""
    assert rows.loc["test/bacterial/person1_bacteria_1.png", "split"] == "test"
    assert any("1 patients are in several splits: their 1 train images" in w
               for w in summary.warnings)  # fmt: skip
    with pytest.raises(ManifestError, match="patient 'person1' is in"):
        add_dataset("e", tmp_path / "chest", paths=paths, on_straddle="error")
    with pytest.raises(ManifestError, match="use error, drop-train or drop-test"):
        add_dataset("e", tmp_path / "chest", paths=paths, on_straddle="ask")


def test_dicom_patients_are_a_code_that_does_not_tell_the_header(tmp_path, paths):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    for at, (label, patient) in enumerate([("a", "SECRET-1"), ("a", "SECRET-1"), ("b", "Doe^J")]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
        data.PatientID = data.PatientName = patient
        data.Rows, data.Columns = 6, 8
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelRepresentation, data.SamplesPerPixel = 0, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = bytes(range(at, at + 48))
        (tmp_path / "x" / label).mkdir(parents=True, exist_ok=True)
        data.save_as(tmp_path / "x" / label / f"{at}", enforce_file_format=True)
    add_dataset("d", tmp_path / "x", paths=paths)
    text = paths.manifest("d").read_text()
    assert "SECRET" not in text
    assert "Doe" not in text
    patients = rows_of(paths)["patient_id"].tolist()
    assert patients[0] == patients[1] != patients[2]
    assert all(patients)


@pytest.mark.parametrize(
    ("dataset", "images", "masks", "patients"),
    [("brain", 6619, 4411, 0), ("covid", 293, 150, 0), ("breast", 702, 702, 0)],
)
def test_the_real_sets_are_added_whole(request, shared, paths, dataset, images, masks, patients):
    data = shared / "data"
    if dataset == "brain":
        paths, summary = request.getfixturevalue("brain")
    else:
        summary = add_dataset(dataset, data / dataset, paths=paths, masks=data / f"{dataset}_masks")
    assert (summary.images, summary.masks, summary.patients) == (images, masks, patients)
    assert not summary.failed
    read_manifest(paths.manifest(dataset), data=paths.data(dataset), check_files=True)


def test_the_real_lung_set_has_its_patients_and_judgeable_masks(shared, paths):
    data = shared / "data"
    summary = add_dataset("lung", data / "lung", paths=paths, masks=data / "lung_masks.csv")
    frame = read_manifest(paths.manifest("lung"))
    assert summary.counts["test"] == {"bacterial": 242, "normal": 234, "viral": 148}
    assert summary.masks == 4896
    assert (frame["patient_id"] != "").all()
    person = frame[frame["patient_id"] == "person124"]
    assert set(person["label"]) == {"bacterial", "viral"}
    assert "train" not in set(person["split"])
