"""Tables: lists of images, known groups, and patients, read from any program's CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.intake import add_dataset
from pipeline.intake.known import patients_from_names
from pipeline.manifest import read_manifest
from tests.data.conftest import pages, picture, rows_of
from tests.images.makers import dicom, grey, save_dicom

PLAIN = "path,label\nsub/0.png,007\nsub/1.png,007\nsub/2.png,NA\nsub/3.png,NA\n"
TABLES = "A table with BOM, CRLF, semicolons or backslashes gives the same manifest, or is refused."


def table_of(folder: Path, text: str) -> Path:
    """Write a table next to the folder `sub` of six pictures."""
    for i in range(6):
        picture(folder / "sub" / f"{i}.png", seed=i)
    (folder / "table.csv").write_bytes(text.encode())
    return folder / "table.csv"


@pytest.mark.promise(TABLES)
@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("/", "\\"),
        PLAIN.replace("path,label", "Filename,Class"),
        PLAIN.replace("sub/", "./sub/"),
    ],
    ids=["plain", "bom", "crlf", "semicolon", "tab", "backslash", "synonyms", "dot"],
)
def test_a_table_from_any_program_gives_the_same_manifest(tmp_path, paths, text):
    add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    frame = rows_of(paths)
    assert frame["path"].tolist() == [f"sub/{i}.png" for i in range(4)]
    assert frame["label"].tolist() == ["007", "007", "NA", "NA"]


def test_other_columns_of_a_table_are_kept_whatever_their_case(tmp_path, paths):
    text = (
        "image_id,path,label,split,patient_id,fold,box,points,synthetic,site\n"
        '1e5,sub/0.png,a,Training,p1,2,"0,0,5,5","3,3,1;1,1,0",1,north\n'
        "True,sub/1.png,b,test,p2,1,,,0,south\n"
    )
    header, _, rest = text.partition("\n")
    add_dataset("d", table_of(tmp_path / "t", f"{header.title()}\n{rest}"), paths=paths)
    frame = read_manifest(paths.manifest("d"))
    first = {"image_id": "1e5", "split": "train", "patient_id": "p1", "fold": "2", "Site": "north"}
    first |= {"box": "0,0,5,5", "points": "3,3,1;1,1,0", "synthetic": "1"}
    assert first.items() <= frame.iloc[0].to_dict().items()
    assert (frame.loc[1, "image_id"], frame.loc[1, "Site"]) == ("True", "south")


@pytest.mark.promise("All pages of a file are taken, unless a table names one of them.")
@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_frame_means_all_frames_as_no_column_does(tmp_path, paths, blank):
    for name in ("all", "two"):
        pages(tmp_path / "t" / "sub" / f"{name}.tif", 4)
    text = f"path,label,frame,image_id\nsub/all.tif,a,{blank},scan\nsub/0.png,a,{blank},\n"
    text += "sub/two.tif,b, 2,page\nsub/two.tif,b,9,none\n"
    summary = add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    frame = rows_of(paths)
    rows = set(zip(frame["image_id"], frame["path"], frame["frame"], strict=True))
    expected = {(f"scan#{i}", "sub/all.tif", i) for i in range(4)}
    assert rows == expected | {("sub/0.png", "sub/0.png", 0), ("page", "sub/two.tif", 2)}
    assert list(summary.failed) == ["sub/two.tif"]


REFUSED_TABLES = [
    (PLAIN.replace("sub/1", "../sub/1"), "line 3: ../sub/1.png"),
    (PLAIN.replace("sub/1", "/etc/1"), "outside the table's folder"),
    (PLAIN.replace("label", "diagnose"), "no column 'label'"),
    ("path,label\n", "no rows"),
    (PLAIN.replace("sub/1", "sub/0"), "'sub/0.png' is on line 2 too"),
    ("image,path,label\na,b,c\n", "two columns are 'path'"),
]


@pytest.mark.promise(TABLES)
@pytest.mark.parametrize(("text", "expected"), REFUSED_TABLES)
def test_a_table_that_cannot_be_used_is_refused_with_the_cause(tmp_path, paths, text, expected):
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    assert not list(paths.root.glob("*/*"))


GROUPS = "Known groups are joined, and none is overwritten."


@pytest.mark.promise(GROUPS)
def test_groups_are_joined_by_path_from_the_folder_or_the_one_above(scans, paths, tmp_path):
    (tmp_path / "g.csv").write_text(
        "path,slice,series,fold\ntrain/cat/0.png,s1,007,1\nscans\\train/dog/1.png,s2,008,2\n"
    )
    add_dataset("d", scans, paths=paths, groups=tmp_path / "g.csv")
    rows = rows_of(paths)
    assert rows.loc["train/cat/0.png", ["group", "fold"]].tolist() == ["007", "1"]
    assert rows.loc["train/dog/1.png", ["group", "fold"]].tolist() == ["008", "2"]


@pytest.mark.promise(GROUPS)
def test_a_file_named_in_a_table_of_groups_means_all_its_frames(tmp_path, paths):
    for name in ("a", "b"):
        pages(tmp_path / "t" / f"{name}.tif", 3)
    (tmp_path / "t" / "table.csv").write_text(
        "path,frame,label\na.tif,,a\n" + "".join(f"b.tif,{f},b\n" for f in range(3))
    )
    groups = tmp_path / "g.csv"
    groups.write_text("path,series\na.tif,7\nb.tif,8\n")
    add_dataset("d", tmp_path / "t" / "table.csv", paths=paths, groups=groups)
    assert rows_of(paths)["group"].tolist() == ["7"] * 3 + ["8"] * 3
    groups.write_text("path,series\na.tif,9\n")
    with pytest.raises(ManifestError, match="'7' -> '9'"):
        add_dataset("d", tmp_path / "t" / "table.csv", paths=paths, groups=groups)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,series\nnowhere.png,1\n", "knows none of the images"),
        ("path,colour\ntrain/cat/0.png,1\n", "no column that names images, or none that groups"),
        ("path,series\ntrain/cat/0.png,1\ntrain/cat/0.png,2\n", "line 3: .* second time"),
    ],
)
def test_groups_that_cannot_be_joined_are_refused(scans, paths, tmp_path, text, expected):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", scans, paths=paths, groups=tmp_path / "g.csv")


def test_patients_are_read_from_known_names_or_by_a_pattern():
    chest = [
        "train/bacterial/person1000_bacteria_2931.jpeg",
        "train/viral/person1000_virus_1681.jpeg",
        "train/normal/NORMAL2-IM-0516-0001-0002.jpeg",
        "train/normal/IM-0115-0001.jpeg",
    ]
    assert patients_from_names(chest) == ["person1000", "person1000", "NORMAL2-IM-0516", "IM-0115"]
    names = ["a/0001.png", "a/case7_x.png", "a/person1_bacteria_2.jpeg"]
    assert patients_from_names(names) == ["", "", ""]
    assert patients_from_names(names, r"case(\d+)") == ["", "7", ""]
    for pattern, expected in {"(": "regular", "a": "no group", "(zzz)": "matches none"}.items():
        with pytest.raises(ManifestError, match=expected):
            patients_from_names(names, pattern)


SHARED = "A patient in two splits is refused if a table says so, else taken out of train."


@pytest.mark.promise(SHARED)
def test_a_patient_whom_a_table_puts_in_two_splits_is_an_error(tmp_path, paths):
    text = "path,label,split,patient_id\nsub/0.png,a,train,p\nsub/1.png,a,test,p\n"
    source = table_of(tmp_path / "t", text)
    with pytest.raises(ManifestError, match=r"patient 'p' is in test .*--on-shared-patient"):
        add_dataset("d", source, paths=paths)
    summary = add_dataset("d", source, paths=paths, on_shared_patient="drop-test")
    assert summary.counts == {"train": {"a": 1}, "": {"a": 1}}


@pytest.mark.promise(SHARED)
def test_a_patient_whose_name_is_in_two_splits_leaves_train_and_test_stays_whole(tmp_path, paths):
    for name in (
        "train/viral/person1_virus_6.png",
        "train/viral/person2_virus_7.png",
        "test/bacterial/person1_bacteria_1.png",
        "train/bacterial/person3_bacteria_9.png",
    ):
        picture(tmp_path / "chest" / name, seed=len(name))
    summary = add_dataset("d", tmp_path / "chest", paths=paths)
    split = rows_of(paths)["split"]
    assert split["train/viral/person1_virus_6.png"] == ""
    assert split["test/bacterial/person1_bacteria_1.png"] == "test"
    assert any("1 patients" in w and "1 train images" in w for w in summary.warnings)
    with pytest.raises(ManifestError, match="patient 'person1' is in"):
        add_dataset("e", tmp_path / "chest", paths=paths, on_shared_patient="error")
    with pytest.raises(ManifestError, match="error, drop-train or drop-test"):
        add_dataset("e", tmp_path / "chest", paths=paths, on_shared_patient="ask")


@pytest.mark.promise("A manifest holds no patient id of a DICOM header, only a one-way code of it.")
def test_dicom_patients_are_a_code_that_does_not_tell_the_header(tmp_path, paths):
    for at, (label, patient) in enumerate([("a", "SECRET-1"), ("a", "SECRET-1"), ("b", "Doe^J")]):
        made = dicom(grey(seed=at))
        made.PatientID = made.PatientName = patient
        (tmp_path / "x" / label).mkdir(parents=True, exist_ok=True)
        save_dicom(made, tmp_path / "x" / label / f"{at}")
    add_dataset("d", tmp_path / "x", paths=paths)
    text = paths.manifest("d").read_text()
    assert "SECRET" not in text and "Doe" not in text
    patients = rows_of(paths)["patient_id"].tolist()
    assert patients[0] == patients[1] != patients[2]
    assert all(patients)
