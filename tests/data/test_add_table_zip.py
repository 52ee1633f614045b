"""Intake of tables and zips: read, or refused with the cause and nothing written."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest, write_manifest
from tests.data.conftest import picture


def table_of(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    for i in range(6):
        picture(folder / "sub" / f"{i}.png", seed=i)
    (folder / "table.csv").write_bytes(text.encode(encoding))
    return folder / "table.csv"


PLAIN = "path,label\nsub/0.png,007\nsub/1.png,007\nsub/2.png,NA\nsub/3.png,NA\n"


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
    ids=["plain", "bom", "crlf", "semicolon", "tab", "backslash", "aliases", "dot"],
)
def test_a_table_from_any_program_gives_the_same_manifest(tmp_path, paths, text):
    add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    frame = read_manifest(paths.manifest("d"), data=paths.data("d"), check_files=True)
    assert frame["path"].tolist() == [f"sub/{i}.png" for i in range(4)]
    assert frame["label"].tolist() == ["007", "007", "NA", "NA"]


def test_ids_prompts_groups_and_other_columns_of_a_table_are_kept(tmp_path, paths):
    text = (
        "image_id,path,label,split,patient_id,fold,box,points,synthetic,site\n"
        '1e5,sub/0.png,a,Training,p1,2,"0,0,5,5","3,3,1;1,1,0",1,north\n'
        "True,sub/1.png,b,test,p2,1,,,0,south\n"
    )
    add_dataset("d", table_of(tmp_path / "t", text), paths=paths)
    rows = read_manifest(paths.manifest("d")).to_dict("records")
    first = {
        "image_id": "1e5",
        "split": "train",
        "patient_id": "p1",
        "fold": "2",
        "box": "0,0,5,5",
        "points": "3,3,1;1,1,0",
        "synthetic": "1",
        "site": "north",
    }
    assert first.items() <= rows[0].items()
    assert (rows[1]["image_id"], rows[1]["site"]) == ("True", "south")


def test_capitals_of_column_names_do_not_matter(tmp_path, paths):
    header = "Image_ID,Path,Label,Split,Patient_ID,Group,Fold,Box,Points,Synthetic,Site"
    rows = [
        f'{i},sub/{i}.png,{"ab"[i % 2]},{"test" if i > 3 else "train"},p{i},g{i},{i},"0,0,5,5",'
        f'"3,3,1",1,north'
        for i in range(6)
    ]
    for name, head in (("low", header.lower()), ("High", header), ("HIGH", header.upper())):
        table = table_of(tmp_path / name, "\n".join([head, *rows]))
        add_dataset(name, table, paths=paths)
    tables = [read_manifest(paths.manifest(name)) for name in ("low", "High", "HIGH")]
    assert tables[0]["split"].tolist() == ["train"] * 4 + ["test"] * 2
    for other, extra in zip(tables[1:], ("Site", "SITE"), strict=True):
        assert other.rename(columns={extra: "site"}).equals(tables[0])


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_frame_means_all_frames_as_no_column_does(tmp_path, paths, blank):
    pages = [Image.new("L", (8, 6), shade) for shade in (10, 20, 30, 40)]
    (tmp_path / "t" / "sub").mkdir(parents=True)
    for name in ("all", "two"):
        file = tmp_path / "t" / "sub" / f"{name}.tif"
        pages[0].save(file, save_all=True, append_images=pages[1:])
    text = f"path,label,frame,image_id\nsub/all.tif,a,{blank},scan\nsub/0.png,a,{blank},\n"
    add_dataset("d", table_of(tmp_path / "t", text + "sub/two.tif,b, 2,page\n"), paths=paths)
    frame = read_manifest(paths.manifest("d"), data=paths.data("d"), check_files=True)
    rows = list(zip(frame["image_id"], frame["path"], frame["frame"], strict=True))
    assert sorted(rows) == sorted(
        [(f"scan#{i}", "sub/all.tif", i) for i in range(4)]
        + [("sub/0.png", "sub/0.png", 0), ("page", "sub/two.tif", 2)]
    )


REFUSED_TABLES = [
    (PLAIN, "utf-16", "UTF-16"),
    (PLAIN.replace("007", "é"), "latin-1", "line 2: not UTF-8"),
    (PLAIN.replace("sub/1", "../sub/1"), "utf-8", "line 3: ../sub/1.png"),
    (PLAIN.replace("sub/1", "/etc/1"), "utf-8", "lie outside the table's folder"),
    (PLAIN.replace("NA\n", "NA,extra\n", 1), "utf-8", "line 4: 3 fields"),
    ('path,label\n"sub/0.png,a\n', "utf-8", "not valid CSV"),
    (PLAIN.replace("label", "diagnose"), "utf-8", "no column 'label'"),
    ("path,label\n", "utf-8", "no rows"),
    (PLAIN.replace("sub/1", "sub/0"), "utf-8", "'sub/0.png' is on line 2 too"),
    (PLAIN.replace("path,label", "path,path"), "utf-8", "column 'path' twice"),
    ("image,path,label\na,b,c\n", "utf-8", "two columns are 'path': 'image' and 'path'"),
]


@pytest.mark.parametrize(("text", "encoding", "expected"), REFUSED_TABLES)
def test_a_table_that_cannot_be_used_is_refused_with_the_cause(
    tmp_path, paths, text, encoding, expected
):
    with pytest.raises(ManifestError, match=expected):
        add_dataset("d", table_of(tmp_path / "t", text, encoding), paths=paths)
    assert not paths.manifest("d").exists()
    assert not paths.data("d").exists()


def test_a_file_that_a_table_names_but_is_missing_is_a_named_failure(tmp_path, paths):
    summary = add_dataset("d", table_of(tmp_path / "t", PLAIN + "sub/99.png,NA\n"), paths=paths)
    assert summary.images == 4
    assert list(summary.failed) == ["sub/99.png"]


def test_a_patient_whom_a_table_puts_in_two_splits_is_an_error(tmp_path, paths):
    text = "path,label,split,patient_id\nsub/0.png,a,train,p\nsub/1.png,a,test,p\n"
    source = table_of(tmp_path / "t", text)
    with pytest.raises(ManifestError, match="patient 'p' is in test") as caught:
        add_dataset("d", source, paths=paths)
    assert "--on-straddle" in str(caught.value)
    summary = add_dataset("d", source, paths=paths, on_straddle="drop-test")
    assert summary.counts == {"train": {"a": 1}, "": {"a": 1}}


def zip_of(path: Path, folder: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("prefix", ["", "wrapper/"])
def test_a_zip_gives_the_manifest_of_its_folder(scans, tmp_path, paths, prefix):
    add_dataset("folder", scans, paths=paths)
    add_dataset("zipped", zip_of(tmp_path / "s.zip", scans, prefix), paths=paths)
    a, b = (read_manifest(paths.manifest(name)) for name in ("folder", "zipped"))
    assert a.equals(b)
    assert (paths.data("zipped") / "train" / "cat" / "0.png").is_file()
    assert sorted(p.name for p in paths.data("d").parent.iterdir()) == ["folder", "zipped"]


@pytest.mark.parametrize("prefix", ["", "wrap/"])
def test_the_same_zip_can_be_added_again_and_a_changed_one_is_refused_with_a_way_that_works(
    scans, tmp_path, paths, prefix
):
    source = zip_of(tmp_path / "s.zip", scans, prefix)
    add_dataset("d", source, paths=paths)
    frame = read_manifest(paths.manifest("d"))
    frame.loc[3, "box"] = "1,1,5,5"
    write_manifest(frame, paths.manifest("d"))
    again = add_dataset("d", source, paths=paths)
    assert again.changed == {"added": 0, "removed": 0, "changed": 0}
    assert read_manifest(paths.manifest("d")).loc[3, "box"] == "1,1,5,5"

    picture(scans / "train" / "cat" / "new.png", seed=1)
    source = zip_of(tmp_path / "s.zip", scans, prefix)
    before = paths.manifest("d").read_bytes()
    for force in (False, True):
        with pytest.raises(ManifestError, match="other images than this zip") as caught:
            add_dataset("d", source, paths=paths, force=force)
        assert "unpack the zip into it and pass it as --from" in str(caught.value)
    assert paths.manifest("d").read_bytes() == before
    shutil.copytree(scans, paths.data("d"), dirs_exist_ok=True)
    assert add_dataset("d", paths.data("d"), paths=paths).changed["added"] == 1


def test_junk_in_a_zip_is_not_extracted(scans, tmp_path, paths):
    (scans / "__MACOSX").mkdir()
    (scans / "__MACOSX" / "._x.png").write_bytes(b"junk")
    add_dataset("d", zip_of(tmp_path / "s.zip", scans), paths=paths)
    assert not (paths.data("d") / "__MACOSX").exists()


def _climbing(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")


def _linking(path: Path) -> None:
    entry = zipfile.ZipInfo("train/cat/link.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/cat/bomb.png", bytes(2**27))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[120] ^= 0xFF  # inside the first picture
    path.write_bytes(raw)


def _doubled(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        _climbing(path, "train/cat/0.png")


SPOILED_ZIPS = [
    (lambda p: _climbing(p, "../out.png"), "leads out of its folder"),
    (lambda p: _climbing(p, "train/../../out.png"), "leads out of its folder"),
    (lambda p: _climbing(p, "/out.png"), "leads out of its folder"),
    (lambda p: _climbing(p, "C:/out.png"), "leads out of its folder"),
    (lambda p: _climbing(p, "a\\b.png"), "backslashes"),
    (_linking, "is a link or device"),
    (_bomb, "zip bomb"),
    (_cut, "cut short"),
    (_flip, "damaged|cut short"),
    (_doubled, "comes twice"),
    (lambda p: p.write_bytes(b"<html>"), "is not a zip"),
]


@pytest.mark.parametrize(("spoil", "expected"), SPOILED_ZIPS)
def test_a_zip_that_is_not_sound_is_refused_and_nothing_is_written(
    scans, tmp_path, paths, spoil, expected
):
    source = zip_of(tmp_path / "s.zip", scans)
    spoil(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManifestError, match=expected) as caught:
        add_dataset("d", source, paths=paths)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before
