"""Atomic writes, hashes and text tables."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.io import FileHashes, atomic_write, atomic_write_json, read_text_csv, sha256_file


@pytest.mark.promise("A file is replaced as a whole or not at all.")
def test_an_error_while_writing_keeps_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError):  # JSON has no such value
        atomic_write_json(target, {"x": float("nan")})
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def keep_times(change, *files: Path) -> None:
    """Change files and set their times of modification back."""
    before = [file.stat().st_mtime_ns for file in files]
    change()
    for file, then in zip(files, before, strict=True):
        os.utime(file, ns=(then, then))


def swap(a: Path, b: Path) -> None:
    for one, other in ((a, a.with_name("x")), (b, a), (a.with_name("x"), b)):
        one.rename(other)


@pytest.mark.promise("Bytes that change under the same name are noticed by all who read them.")
@pytest.mark.parametrize("how", ["longer", "same times", "files swapped", "folders swapped"])
def test_a_file_of_other_bytes_has_another_hash_whatever_its_size_and_time(tmp_path, how) -> None:
    a, b = (tmp_path / name / "x.png" for name in "ab")
    for file in (a, b):
        file.parent.mkdir()
        file.write_bytes(f"image {file.parent.name}".encode())
        os.utime(file, ns=(10**18, 10**18))  # as archives set it
    hashes = FileHashes(tmp_path / "hashes.json")
    assert hashes(a) == sha256_file(a) and hashes(b) == sha256_file(b)
    hashes._young.clear()  # as if time had passed
    hashes.save()
    changes = {
        "longer": lambda: a.write_bytes(b"image aa"),
        "same times": lambda: keep_times(lambda: a.write_bytes(b"image x"), a),
        "files swapped": lambda: swap(a, b),
        "folders swapped": lambda: swap(a.parent, b.parent),
    }
    changes[how]()
    again = FileHashes(hashes.path)
    assert [again(a), again(b)] == [sha256_file(a), sha256_file(b)]


@pytest.mark.promise("Unchanged files are not read to see that; a copied folder is no alarm.")
def test_a_file_that_has_not_changed_is_read_once(tmp_path, monkeypatch) -> None:
    read = []
    monkeypatch.setattr("pipeline.io.sha256_file", lambda file: read.append(file) or "digest")
    folder, hashes = tmp_path / "a", FileHashes(tmp_path / "hashes.json")
    folder.mkdir()
    for name in "xy":
        (folder / name).write_bytes(b"image")
    assert [hashes(folder / name) for name in "xxyx"] == ["digest"] * 4 and len(read) == 2
    hashes.save()
    assert FileHashes(hashes.path)(folder / "x") and len(read) == 3  # it was too young to be kept
    monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)
    for _ in range(3):
        again = FileHashes(hashes.path)
        assert {again(folder / name) for name in "xy"} == {"digest"}
        again.save()
    assert len(read) == 5
    shutil.copytree(folder, tmp_path / "b")
    assert again(tmp_path / "b/x") == "digest" and len(read) == 6
    hashes.path.write_text("[1")  # damaged
    assert FileHashes(hashes.path)(folder / "x") == "digest" and len(read) == 7


@pytest.mark.promise("Values of a CSV stay text, byte for byte.")
@pytest.mark.parametrize(
    "raw",
    [
        b'image_id,label\n007,NA\n"a,b",1e5\n',
        b'\xef\xbb\xbfimage_id,label\r\n007,NA\r\n\r\n"a,b",1e5\r\n',
        b"image_id;label\n007;NA\na,b;1e5\n",
        b"image_id\tlabel\r007\tNA\ra,b\t1e5",
        b'sep=;\r\nimage_id;label\r\n007;NA\r\n"a,b";1e5\r\n',
        b'image_id,label,,\n007,NA,,\n"a,b",1e5\n,,,\n',
        b'"image_id",label,\n007,NA\n\n"a,b",1e5, ,\n',
    ],
    ids=["plain", "BOM, CRLF", "semicolons", "tabs, CR", "sep=", "trailing", "uneven ends"],
)
def test_a_csv_of_any_program_reads_as_the_same_text(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(raw)
    table = read_text_csv(tmp_path / "t.csv")
    assert table.header == ["image_id", "label"]
    assert table.rows == [["007", "NA"], ["a,b", "1e5"]]
    assert table.column("label") == ["NA", "1e5"]
    (tmp_path / "t.csv").write_text('a,b\n"x\ny",1\n\nz,2\n')
    assert read_text_csv(tmp_path / "t.csv").lines == [2, 5]
    (tmp_path / "t.csv").write_text("sep=;\na;b, c\n\n1;2,5\n")
    table = read_text_csv(tmp_path / "t.csv")
    assert (table.header, table.rows, table.lines) == (["a", "b, c"], [["1", "2,5"]], [4])


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields"),
        (b"a,b\n1\n", "line 2: 1 fields"),
        (b"a,a\n1,2\n", "'a' twice"),
        (b'a,b\n"1,2\n', "not valid CSV"),
        (b"a,b\n1,\xff\n", "line 2: not UTF-8"),
        (b"a,b\n1,\x002\n", "line 2: not UTF-8"),
        ("a,b".encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path, raw, found) -> None:
    path = tmp_path / "t.csv"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(ManifestError, match=found) as caught:
        read_text_csv(path)
    assert caught.value.path == path and caught.value.remedy
