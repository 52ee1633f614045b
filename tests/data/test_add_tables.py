"""Tables: lists of images, known groups, and patients, read from any program's CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import ManifestError
from pipeline.intake import TableRules, add_dataset
from pipeline.intake.known import patient_hint, patients_from_names, without_lone_patient
from pipeline.intake.user_tables import find_files, take_units
from pipeline.manifest import read_manifest
from tests.data.conftest import mask, pages, picture, rows_of
from tests.images.makers import dicom, grey, save_dicom
from tests.project import in_process

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
        PLAIN.replace(",", " , "),
    ],
    ids=["plain", "bom", "crlf", "semicolon", "tab", "backslash", "synonyms", "dot", "blanks"],
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
    ("sub/0.png,a\nsub/1.png,b\n", "line 1 names a file"),
    (PLAIN.replace("sub/1", "sub/0"), "'sub/0.png' is on line 2 too"),
    ("image,path,label\na,b,c\n", "two columns are 'path'"),
    ("7 sub/0.png benign\n8 sub/1.png benign\n", "line 1 names a file .* with commas between"),
]


CONVERTED = {
    "x.npz": (b"PK\3\4", "holds NumPy arrays, no table - save each"),
    "x.mat": (b"MATLAB 5.0", "holds arrays, no table - save each"),
    "coco.json": (b'{"annotations": []}', r"\(COCO\), no table - write their boxes into a CSV"),
    "lm.json": (b'{"shapes": []}', "LabelMe"),
    "voc.xml": (b"<?xml version='1.0'?>\n<annotation>", "Pascal VOC"),
    "yolo.txt": (b"0 0.5 0.5 0.1 0.1\n", "YOLO"),
}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.png", *CONVERTED])
def test_a_file_of_another_format_is_no_table_and_the_remedy_converts_it(tmp_path, paths, name):
    content, said = CONVERTED.get(name, (b"x", "no folder, CSV or zip - unpack it"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=said):
        add_dataset("d", tmp_path / name, paths=paths)
    if name not in CONVERTED:
        return
    text = f"path,label\nsub/{name},a\n"
    table = table_of(tmp_path / "t", text)
    (tmp_path / "t" / "sub" / name).write_bytes(content)
    with pytest.raises(ManifestError, match=r"lists no images; 1: .* - (save|write)"):
        add_dataset("d", table, paths=paths)
    for c in "ab":  # annotations beside images that are in no class folder
        picture(tmp_path / "flat" / f"{c}.png")
        (tmp_path / "flat" / f"{c}{Path(name).suffix}").write_bytes(content)
    with pytest.raises(ManifestError, match=r"in no class folder - (save|write)"):
        add_dataset("d", tmp_path / "flat", paths=paths)


@pytest.mark.promise(TABLES)
@pytest.mark.parametrize(("text", "expected"), REFUSED_TABLES)
def test_a_table_that_cannot_be_used_is_refused_with_the_cause(tmp_path, paths, text, expected):
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    assert not list(paths.root.glob("*/*"))


NAMES = (
    "Names without folder or suffix, of another machine or below another folder find their file; a "
    "name that fits two files or none is refused or reported, with the nearest file."
)


@pytest.fixture
def parts(tmp_path):
    """Four pictures in two folders: part1/s1.png, part1/s2.png, part2/s3.png, part2/S4.png."""
    for i, name in enumerate(("part1/s1", "part1/s2", "part2/s3", "part2/S4")):
        picture(tmp_path / "set" / f"{name}.png", seed=i, size=(100, 80))
    return tmp_path / "set"


FILES = ["part1/s1.png", "part1/s2.png", "part2/S4.png", "part2/s3.png"]


def added(folder: Path, paths, *lines: str, name: str = "table.csv", masks=None, **rules):
    """Write a table, add it, and return the summary and the manifest."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([*lines, ""]))
    table = TableRules(**rules)
    summary = add_dataset("d", folder / name, paths=paths, table=table, masks=masks)
    return summary, read_manifest(paths.manifest("d"))


@pytest.mark.promise(NAMES)
@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("path,label", "{0}.png"),
        ("Image Index,label", "{0}"),
        ("image_id,dx", "{0}"),
        ("scan,label", "{0}"),
        ("url,scan,label", "http://x/y,{0}"),
        ("Path,label", r"C:\old\set\{1}\{0}.png"),
        ("path,label", "/home/ann/{1}/{0}.png"),
        ("path,label", "set-v2/{1}/{0}.PNG"),
        ("path,label", "set/{1}/{0}.png"),
        ("path,label", "{2}/{1}/{0}.png"),
        ("path,label", "../set/{1}/{0}.png"),
    ],
)
def test_names_as_tables_write_them_find_their_file(parts, paths, header, form):
    names = [("s1", "part1"), ("s2", "part1"), ("s3", "part2"), ("S4", "part2")]
    lines = [f"{form.format(*name, parts)},{at % 2}" for at, name in enumerate(names)]
    summary, frame = added(parts, paths, header, *lines)
    assert frame["path"].tolist() == FILES and frame["label"].tolist() == ["0", "1", "1", "0"]
    assert not summary.failed and paths.data("d").resolve() == parts.resolve()
    known = {"image_id,dx": ["s1", "s2", "S4", "s3"]}.get(header, FILES)
    assert frame["image_id"].tolist() == known


@pytest.mark.promise(NAMES)
def test_a_table_on_another_disk_leads_to_the_images_or_is_told_their_folder(parts, paths):
    away = parts.parent / "away"
    mask(parts / "m.png", 9, size=(100, 80))
    lines = [f"{parts}/{file},a,../set/m.png" for file in FILES[:2]]
    summary, frame = added(away, paths, "path,label,mask_path", *lines)
    assert frame["path"].tolist() == ["s1.png", "s2.png"]
    assert set(frame["mask_path"]) == {"../m.png"} and str(parts / "part1") in summary.text()
    bare = ["path,label", "s1,a", "s3,b"]
    with pytest.raises(ManifestError, match=f"2 of 2 paths .*below {away}.*--images"):
        added(away, paths, *bare)
    add_dataset("e", away / "table.csv", paths=paths, table=TableRules(images=parts))
    assert rows_of(paths, "e")["path"].tolist() == ["part1/s1.png", "part2/s3.png"]


@pytest.mark.promise(NAMES)
def test_a_name_of_an_image_and_its_mask_is_that_of_the_image_in_a_table_of_images(parts):
    mask(parts / "gt" / "s1.png", 9)
    for masks, folder in ((False, "part1"), (True, "gt")):
        found, how, _ = find_files(["s1"], parts, parts / "t.csv", masks)
        assert found == [parts / folder / "s1.png"] and how == "by their names"


@pytest.mark.promise(NAMES)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["s1.png", "s2.png"], "'s2.png' fits part1/s2.png, part2/s2.png.*--images"),
        (["part1/s1.jpg", "part1/s2.jpg"], "2 of 2 paths .* nearest file is part1/s1.png"),
        (["part2/s1.png", "part1/s3.png"], "2 of 2 paths lead to no file"),
        (["https://x.org/s1.png", "part1/s2.png"], "web address - download"),
        (["part1/s1.png", "/gone/s2.png"], "line 3: /gone/s2.png"),
        (["s9"], "1 names fit only files in folders named like ground truth, e.g. labels/s9.png"),
    ],
)
def test_names_of_two_files_or_none_are_refused(parts, paths, lines, expected):
    picture(parts / "part2" / "s2.png", seed=9)
    picture(parts / "labels" / "s9.png")
    with pytest.raises(ManifestError, match=expected):
        added(parts, paths, "path,label", *(f"{line},a" for line in lines))
    summary, _ = added(parts, paths, "path,label", "part1/s1.png,a", "part1/s22.png,a")
    assert "line 3" in summary.failed["part1/s22.png"]
    assert "nearest file is part1/s2.png" in summary.failed["part1/s22.png"]


UNITS = "A column that names patients or groups by another name is used, or a warning names it."


@pytest.mark.promise(UNITS)
@pytest.mark.parametrize(
    ("header", "column"),
    [
        *((name, "patient_id") for name in ("Patient ID", "patientId", "Subject_Number", "case")),
        *((name, "group") for name in ("SeriesInstanceUID", "study id", "Slide", "lesion_no")),
        ("Accession Number", "group"),
    ],
)
def test_patients_and_groups_of_other_names_are_used_or_warned_of(tmp_path, paths, header, column):
    lines = [f"sub/{i}.png,a,{i % 5}" for i in range(6)]
    source = table_of(tmp_path / "t", "\n".join([f"path,label,{header}", *lines]))
    summary = add_dataset("d", source, paths=paths)
    assert rows_of(paths)[column].tolist() == list("012340")
    assert repr(header) in summary.text() or header == "patientId"
    few = "\n".join(
        [f"path,label,{header},my unit", *(f"sub/{i}.png,a,{i % 2},u" for i in range(6))]
    )
    if column == "group" or header == "case":  # two values may be two kinds
        summary = add_dataset("e", table_of(tmp_path / "t", few), paths=paths)
        assert set(rows_of(paths, "e")[column]) == {""}
        assert any(repr(header) in w and "--patient-column" in w for w in summary.warnings)
    rules = TableRules(patient_column=header)
    add_dataset("f", table_of(tmp_path / "t", few), paths=paths, table=rules)
    assert rows_of(paths, "f")["patient_id"].tolist() == list("010101")


@pytest.mark.promise(UNITS)
@pytest.mark.parametrize(
    ("name", "value", "shuffled", "warned"),
    [
        ("codice_paziente", lambda i: 100 + i // 4, False, True),  # the rows of one stand together
        ("Fallnummer", lambda i: i // 4, True, True),  # or have one label
        ("nombre", lambda i: "abcdefghij"[i // 4], True, True),
        ("患者", lambda i: i // 4, True, True),
        ("anon_patient", lambda i: f"P{i * 7 % 20}", True, True),  # letters and numbers
        ("MRN", lambda i: i * 7 % 20, True, True),  # a name of numbers
        ("eye_id", lambda i: i * 7 % 20, True, True),
        ("edad", lambda i: i * 7 % 19 + 40, True, False),
        ("age", lambda i: i // 4, False, False),
        ("scanner", lambda i: i % 5, False, False),
        ("ward", lambda i: i // 20, False, False),
        ("site", lambda i: "X", False, False),
        ("class_id", lambda i: i // 4 % 2, True, False),  # what the label says again
        ("note", lambda i: i, False, False),
    ],
)
def test_patients_in_a_column_of_any_language_are_warned_of(name, value, shuffled, warned):
    rows = [(f"{i}.png", "ab"[i // 4 % 2], str(value(i))) for i in range(40)]
    rows = sorted(rows, key=lambda row: row[0][::-1]) if shuffled else rows
    said = take_units(pd.DataFrame(rows, columns=["path", "label", name]), {})
    assert [f"pass --patient-column {name!r}" in text for text in said] == [True] * warned


@pytest.mark.promise(UNITS)
def test_what_an_image_has_several_of_is_no_patient():
    rows = [(f"{i // 3}.png", "ab"[i % 2], f"R{i % 3}") for i in range(30)]
    assert not take_units(pd.DataFrame(rows, columns=["path", "label", "reader_id"]), {})


@pytest.mark.promise("Names and folders that suggest patients who are not known are warned of.")
@pytest.mark.parametrize("form", ["t/patient{:05}/study1/{}.jpg", "f/p1/p10{}/s{}.jpg"])
def test_patients_in_the_paths_of_a_table_are_warned_of(form):
    paths = [form.format(i // 2, i) for i in range(12)]
    frame = pd.DataFrame({"path": paths, "label": "a", "split": "", "fold": ""})
    assert "but 6 " in patient_hint(frame, True)[0]


@pytest.mark.promise(UNITS)
def test_a_word_that_replaces_all_patients_is_no_patient():
    for others, left in ((0, 0), (4, 12)):
        ids = ["ANONYMOUS"] * (12 - others) + [f"P{i}" for i in range(others)]
        frame = pd.DataFrame({"patient_id": ids, "label": [*"ab"] * 6})
        assert f"{12 - others} of 12 images have the patient" in without_lone_patient(frame)[0]
        assert (frame["patient_id"] != "").sum() == left


OTHER = "A column that names splits or masks by another name is used, asked about or warned of."


@pytest.mark.promise(OTHER)
@pytest.mark.parametrize(
    ("header", "cells", "options", "expected"),
    [
        ("Usage", "Train Train Validate Test", [], "split=train train val test"),
        ("cohort", "train test holdout test", [], "'holdout' is none - say which: --split-name"),
        ("cohort", "train test holdout test", ["holdout=val"], "split=train test val test"),
        ("is_train", "1 0 1 0", [], "'is_train' looks like splits, but is not used (0, 1)"),
        ("phase", "train last train last", [], "'phase' looks like splits, but is not used"),
        ("kfold", "1 0 1 0", [], "fold=1 0 1 0"),
        ("is_train", "1 0 1 0", ["1=train", "0=test"], "split=train test train test"),
        ("roi_file", "m.png m.png m.png m.png", [], "mask_path=m.png m.png m.png m.png"),
        ("seg,gt", "m.png,m.png " * 4, [], "columns 'seg', 'gt' are named like masks"),
    ],
)
def test_splits_and_masks_of_other_columns(parts, paths, header, cells, options, expected):
    mask(parts / "m.png", 9, size=(100, 80))
    lines = [f"{name},a,{cell}" for name, cell in zip(FILES, cells.split(), strict=True)]
    (parts / "t.csv").write_text("\n".join([f"path,label,{header}", *lines]))
    try:
        said = add_dataset("d", parts / "t.csv", paths=paths, split_name=options).text()
    except ManifestError as error:
        said = str(error)
    column, _, values = expected.partition("=")
    if values and " " not in column:
        assert read_manifest(paths.manifest("d"))[column].tolist() == values.split()
    else:
        assert expected in said


def test_tables_of_one_name_have_the_splits_of_their_folders(parts, paths):
    for name, split in {"part1": "train", "part2": "valid"}.items():
        (parts / name).rename(parts / split)
        files = sorted((parts / split).glob("*.png"))
        text = "\n".join(["image,label", *(f"{file.name},a" for file in files)])
        (parts / split / "_classes.csv").write_text(text)
    add_dataset("d", sorted(parts.glob("*/*.csv")), paths=paths)
    assert read_manifest(paths.manifest("d"))["split"].tolist() == ["train", "train", "val", "val"]


LISTS = "Published lists of the names of a split (`train_val_list.txt`) are read and said."


@pytest.mark.promise(LISTS)
@pytest.mark.parametrize(
    ("lists", "splits"),
    [
        (
            {"train_val_list": "s1.png\ns2.png", "test_list": "s3.png\nS4.png"},
            "train train test test",
        ),
        ({"train": "7 s1.png benign\n8 s2.png benign", "Test": "9 S4.png x"}, "train train - test"),
        ({"valid": "part1/s1\npart1/s2\n"}, "val val - -"),
        ({"train": "s1\ns2\ns3\nS4"}, "- - - -"),  # all of them: no list of a part
        ({"train1": "s1\ns2", "test1": "s3", "test2": "s1"}, "- train test -"),  # s1 is in two
        ({"test notes": "The test images come from\ntwo hospitals."}, "- - - -"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "table"])
def test_lists_of_splits_are_read(parts, paths, lists, splits, form):
    (parts / "test list.txt").mkdir()  # is none
    for name, text in lists.items():
        (parts / f"{name}.txt").write_text(text)
    (parts / "t.csv").write_text("\n".join(["path,label", *(f"{name},a" for name in FILES)]))
    given = (parts / "t.csv", "") if form == "table" else (parts, "class/*")
    summary = add_dataset("d", given[0], layout=given[1], paths=paths)
    found = dict(zip(summary.frame["path"], summary.frame["split"], strict=True))
    named = [found[path] or "-" for path in sorted(found, key=str.casefold)]
    assert named == splits.split()
    read = set(named) != {"-"}
    assert any("(move them away" in note for note in summary.notes) == read
    warned = any("in none of these lists" in note for note in summary.notes)
    assert warned == (read and "-" in named)


LABELS = (
    "Several labels of an image, or columns of 0 and 1 that are not one label a row, are refused "
    "until a rule says which label is taken; what the rule leaves out is counted."
)
MANY = ["path,finding labels", "s1,a|b", "s2,b", "s3,a", "S4,b|c|a"]
HOT = ["image,A,B,C", "s1,1,0,0.0", "s2,0,1.0,", "s3,1,1,0", "S4,0,0,-1"]


@pytest.mark.promise(LABELS)
@pytest.mark.parametrize(
    ("lines", "rules", "expected"),
    [
        (MANY, {}, "2 of 4 images have several labels, e.g. part1/s1.png .line 2.*--label-rule"),
        (MANY, {"label_rule": "first"}, "a b b a"),
        (MANY, {"label_rule": "single"}, "b a"),
        (MANY, {"label_rule": "whole"}, "a|b b b|c|a a"),
        ([line.replace("|", "+") for line in MANY], {}, "a+b b b+c+a a"),  # c is in no other cell
        ([*MANY[:3], "s3,a & b", "S4,a"], {"label_sep": "&", "label_rule": "first"}, "a|b b a a"),
        (["path,label", "s1,\"['a', 'b']\"", "s2,a", "s3,b"], {}, "1 of 3 images have several"),
        (["path,label", "s1,\"['a', 'b']\"", "s2,['a']"], {}, "1 of 2 images have several"),
        (["path,label", "s1,\"['a', 'b']\"", "s2,['a']"], {"label_rule": "single"}, "a"),
        (["path,label", 's1,"duct, left"', "s2,duct", "s3,b"], {}, "duct, left/duct/b"),
        (HOT[:3], {}, "A B"),
        (["image,smoke,done", "s1,0,1", "s2,0,1"], {}, "no column 'label'"),
        (["filename,ID,label", "s1,7,a", "s2,7,b"], {}, "a b"),  # ID: two eyes of a patient
        (HOT, {}, "1 rows have several 1, 1 have none and 1 are uncertain.*--label-column"),
        (HOT, {"label_rule": "first"}, "A B A"),
        (HOT, {"label_column": ("A", "B"), "label_rule": "single"}, "A B"),
        (HOT, {"label_column": ("A",)}, "1 0 0 1"),
        (HOT, {"label_column": ("D",)}, "no column 'D' .it has: image, A, B, C"),
        (["path,male,female,grade", "s1,0,1,G0", "s2,1,0,G1"], {}, "no column 'label'"),
        (["path,dx,category", "s1,x,y"], {}, "two columns are 'label': dx and category"),
        (["path,dx,category", "s1,x,y"], {"label_column": ("category",)}, "y"),
        (["path,label", "s1,a", "s1,b", "s2,b"], {}, "1 of 2 images .*keep one row"),
        (["path,label", "s1,a", "s1,b", "s2,b"], {"label_rule": "single"}, "b"),
    ],
)
def test_several_labels_are_refused_or_taken_by_the_rule(parts, paths, lines, rules, expected):
    if ".*" in expected or "several" in expected or "two columns" in expected or "no c" in expected:
        with pytest.raises(ManifestError, match=expected):
            added(parts, paths, *lines, **rules)
        return
    summary, frame = added(parts, paths, *lines, **rules)
    assert frame["label"].tolist() == expected.split("/" if "/" in expected else " ")
    left = len({line.split(",")[0] for line in lines[1:]}) - len(frame)
    assert sum(summary.skipped.values()) == left


BOXES = (
    "Boxes are read by their columns and range (corners, x/y/width/height, centre; pixels or 0..1) "
    "and stated; where two readings are possible they are refused until one is chosen."
)


@pytest.mark.promise(BOXES)
@pytest.mark.parametrize(
    ("header", "cells", "rules", "expected"),
    [
        ("box", '"10,12,60,70"', {}, "10,12,60,70"),
        ("box", '"[10, 12, 60, 70]"', {}, "10,12,60,70"),
        ("box", "(10 12 60.5 70)", {}, "10,12,60.5,70"),
        ("box", '"60,60,20,20"', {}, "not inside the image .*--box-format: xywh"),
        ("box", '"60,60,20,20"', {"box_format": "xywh"}, "60,60,80,80"),
        ("box", '"0.2,0.25,0.5,0.5"', {}, "may be corners, or x,y,width,height"),
        ("box", '"0.2,0.25,0.5,0.5"', {"box_format": "corners"}, "20,20,50,40"),
        ("box", '"0.5,0.5,0.2,0.25"', {"box_format": "centre"}, "40,30,60,50"),
        ("box", '"0.1,0.5,0.4,0.25"', {"box_format": "centre"}, "not a box: '-10,"),
        ("box", '"60,60,20,20"', {"box_format": "none"}, ""),
        ("BBox", '"60,60,20,20"', {}, "60,60,80,80"),
        ("bbox", '"10,10,20,20"', {}, ""),
        ("x_min,y_min,x_max,y_max", "10,12,60,70", {}, "10,12,60,70"),
        ("Bbox [x,y,w,h]", "10.5,12,60,60", {}, "10.5,12,70.5,72"),
        ("x,y,width,height", "10,12,30,40", {}, "10,12,40,52"),
        ("x_center,y_center,width,height", "0.5,0.5,1,1", {}, "0,0,100,80"),
        ("start_x,start_y,end_x,end_y", "10,12,60,70", {}, "10,12,60,70"),
        ("region_shape_attributes", '"{""x"":2}"', {}, ""),
        ("x1,y1,x2,y2", '"1,5",2,60,70', {}, "not a box: '1,5,2,60,70'"),
        ("x1,y1,x2,y2", ",,,", {}, ""),
        ("x1,y1,x2,y2", "0,0,0,0", {}, ""),
    ],
)
def test_boxes_of_any_columns_are_pixels_of_corners(parts, paths, header, cells, rules, expected):
    lines = [f"path,label,{header}", f"s1,a,{cells}", f"s2,b,{cells}"]
    if " " in expected:
        with pytest.raises(ManifestError, match=expected):
            added(parts, paths, *lines, **rules)
        return
    summary, frame = added(parts, paths, *lines, **rules)
    assert frame["box"].tolist() == [expected] * 2
    said = any("2 boxes are" in note for note in summary.notes)
    assert said == bool(expected)
    assert ("not used" in summary.text()) == (header in ("bbox", "region_shape_attributes"))


@pytest.mark.promise(BOXES)
def test_several_boxes_of_an_image_need_a_rule_and_those_of_its_label_count(parts, paths):
    lines = ["image_id,class_name,reader,x_min,y_min,x_max,y_max", "s1,a,R1,0,0,10,10"]
    lines += ["s1,a,R2,20,20,50,40", "s1,b,R2,60,60,70,70", "s2,none,R1,,,,", "s2,none,R2,,,,"]
    with pytest.raises(ManifestError, match=r"several labels.*lines 2, 3, 4.*--box-rule"):
        added(parts, paths, *lines)
    for rule, box in {"union": "0,0,50,40", "largest": "20,20,50,40"}.items():
        paths.manifest("d").unlink(missing_ok=True)
        _, frame = added(parts, paths, *lines, label_rule="first", box_rule=rule)
        assert frame[["image_id", "label", "box"]].values.tolist() == [
            ["s1", "a", box],
            ["s2", "none", ""],
        ]


KEPT = "Adding a table never removes the rows of another; --replace does, and the count is said."


@pytest.mark.promise(KEPT)
def test_tables_of_one_set_are_added_one_after_another_or_together(parts, paths, tmp_path):
    rows = {
        "train": "part1/s1,a,p1\npart1/s2,b,p2\n",
        "test": "part2/s3,a,p3\n",
        "val": "part2/S4,b,p4\n",
    }
    for name, text in rows.items():
        (parts / f"{name}.csv").write_text("path,label,patient\n" + text)
    for name, count in {"train": 2, "test": 3, "val": 4, "train ": 4}.items():
        summary = add_dataset("d", parts / f"{name.strip()}.csv", paths=paths)
        assert summary.images == count and summary.changed["removed"] == 0
    assert [part for part, n in summary.counts.items()] == ["", "test", "val"]
    assert "2 images that are in no table named here stay" in summary.text()
    (parts / "test.csv").write_text("path,label,patient\npart2/s3,a,p1\n")
    with pytest.raises(ManifestError, match="'p3' -> 'p1'"):
        add_dataset("d", parts / "test.csv", paths=paths)
    summary = add_dataset("d", parts / "test.csv", paths=paths, force=True, replace=True)
    assert summary.images == 1 and summary.changed["removed"] == 3

    tables = [parts / f"{name}.csv" for name in ("train", "val", "test")]
    with pytest.raises(ManifestError, match=r"'p1' is in test \(line 2 of test.csv\); train"):
        add_dataset("e", tables, paths=paths)
    summary = add_dataset("e", tables, paths=paths, on_shared_patient="drop-train")
    assert {split: sum(n.values()) for split, n in summary.counts.items()} == {
        **{"": 1, "test": 1, "train": 1, "val": 1}
    }
    with pytest.raises(ManifestError, match="no table"):
        add_dataset("f", [parts, *tables], paths=paths)


def test_the_options_of_tables_reach_them_from_the_command_line(parts, project):
    (parts / "train.csv").write_text("file,kind,who,alike\ns1,a;b,p,x\ns2,b,q,x\n")
    (parts / "t_test.csv").write_text("file,kind,who,alike\ns3,b,r,y\nS4,a,r,y\n")
    code, said = in_process(
        *(project, "data", "add", "d", "--from", f"{parts}/train.csv", "--from"),
        *(f"{parts}/t_test.csv", "--label-column", "kind", "--patient-column", "who"),
        *("--label-rule", "first", "--path-column", "file", "--images", str(parts)),
    )
    assert code == 0 and "train: 2 (a 1, b 1)" in said and "patients: 3" in said, said
    code, said = in_process(project, "data", "add", "d", "--from", str(parts), "--box-rule", "any")
    assert code == 2 and "use one of union, largest" in said


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
    said = add_dataset("d", scans, paths=paths, groups=tmp_path / "g.csv").notes
    assert any("units that stay together: 2 of column" in note for note in said)


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


@pytest.mark.parametrize("second", ["{}.0", " {}", "{} "])
def test_a_patient_written_in_two_ways_is_one(second, parts, paths):
    """`12.0` is what pandas writes for 12 in a column with gaps; blanks are no part of a name."""
    (parts / "train.csv").write_text("path,label,patient_id\ns1,a,0\ns2,b,1\n")
    rows = "".join(f"{name},a,{second.format(at)}\n" for at, name in enumerate(("s3", "S4")))
    (parts / "test.csv").write_text(f"path,label,patient_id\n{rows}")
    with pytest.raises(ManifestError, match="patient '0' is in test"):
        add_dataset("d", [parts / "train.csv", parts / "test.csv"], paths=paths)


def test_patients_that_differ_by_case_or_zeros_are_warned_of(parts, paths):
    """p01 in train and P1 in test may be one."""
    lines = [f"s{at},{'ab'[at % 2]},train,p01" for at in (1, 2)] + ["s3,a,test,P1", "S4,b,test,P1"]
    summary, _ = added(parts, paths, "path,label,split,patient_id", *lines)
    assert any("2 patients in different splits" in line for line in summary.warnings)


@pytest.mark.parametrize(("folder", "said"), [("train", True), ("scan", False)])
def test_folders_named_for_splits_are_not_left_unused_without_a_word(parts, paths, folder, said):
    (parts / "part1").rename(parts / folder)
    (parts / "part2").rename(parts / "test")
    lines = [f"{folder}/s1,a", f"{folder}/s2,b", "test/s3,a", "test/S4,b"]
    summary, _ = added(parts, paths, "path,label", *lines)
    assert any("no split is set" in line for line in summary.warnings) == said
