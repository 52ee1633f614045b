"""The manifest: text survives byte for byte, and every problem is listed at once."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ManifestError
from pipeline.manifest import read_manifest, write_manifest
from tests.project import manifest_of

AS_WRITTEN = "Ids and labels survive byte for byte (007, NA, 1e5, True)."
ALL_AT_ONCE = "Every problem of a manifest is listed at once, with its line and its remedy."
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)


def rows(ids, **columns):
    paths = [f"images/{i}.png" for i in range(len(ids))]
    own = {"path": paths, "width": 20, "height": 10, "synthetic": "0"}
    return manifest_of(ids, **own | columns)


def problems(frame, tmp_path, **options):
    write_manifest(frame, tmp_path / "m.csv")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.csv", **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.promise(AS_WRITTEN)
@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=10, max_size=40, unique_by=lambda pair: pair[0]))
def test_any_id_and_label_come_back_byte_for_byte(tmp_path_factory, pairs):
    pairs += [(f"?{x}", x) for x in ("007", "NA", "1e5", "True", "nan", "null", " x ", "a\nb\r")]
    path = tmp_path_factory.mktemp("m") / "m.csv"
    ids, labels = zip(*pairs, strict=True)
    write_manifest(rows(list(ids), label=list(labels), group=list(ids)), path)
    frame = read_manifest(path)
    assert list(frame["image_id"]) == list(frame["group"]) == list(ids)
    assert list(frame["label"]) == list(labels)


@pytest.mark.promise(ALL_AT_ONCE)
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"split": ["trian", "test"]}, "not a split: 'trian'"),
        ({"label": ["", "a"]}, "an empty label"),
        ({"frame": ["-1", "0"]}, "not a whole number from 0: '-1'"),
        ({"width": ["0", "9"]}, "not a width in pixels: '0'"),
        ({"sha256": ["12", "0" * 64]}, "not a sha256: '12'"),
        ({"path": ["../x.png", "y.png"]}, "not a path below the data folder: '../x.png'"),
        ({"path": ["x.png", "x.png"]}, "'x.png' and '0' is on line 2 too"),
        ({"box": ["5,5,1,9", ""]}, "5,5,1,9 is not inside the image"),
        ({"box": ["0,0,21,9", ""]}, "0,0,21,9 is not inside the image of 20 x 10"),
        ({"points": ["3,3,2", ""]}, "not points: '3,3,2'"),
        ({"points": ["3,10,1", ""]}, "3,10,1 is not inside the image"),
        ({"synthetic": ["yes", "0"]}, "neither 0 nor 1: 'yes'"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_remedy(tmp_path, columns, expected):
    said = problems(rows(["p", "q"], **columns), tmp_path)
    assert re.search(rf"line [23], \w.*: {re.escape(expected)}.* - \w", said)


@pytest.mark.promise(ALL_AT_ONCE)
def test_every_problem_is_listed_at_once_with_the_line_of_an_editor(tmp_path):
    frame = rows(
        ["x\n", "x\n", "y", "z"],
        split=["train", "test", "dev", "train"],
        patient_id=["p", "p", "", "q"],
        label=["a", "a", "", "b"],
    )
    said = problems(frame, tmp_path, classes=["a"])
    assert "5 problems" in said
    assert "line 4, image_id: 'x\\n' is on line 2 too" in said
    assert "patient 'p' is in test (line 4); train (line 2)" in said
    assert "line 6, split: not a split: 'dev'" in said
    assert re.search("line 6, label: .*''", said) and re.search("line 7, label: .*'b' .*: a", said)


def test_missing_files_and_links_to_nothing_are_listed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    (tmp_path / "images" / "1.png").symlink_to("nowhere")
    said = problems(rows(["a", "b", "c"], mask_path=["gone.png", "", ""]), tmp_path, data=tmp_path)
    assert re.search(r"line 2, mask_path: no such file.* - put it back, or empty the cell", said)
    assert "line 3, path: a broken link" in said
    assert re.search(r"line 4, path: no such file.* - put it back, or run `pipeline data", said)
    assert "3 problems" in said


def test_hundreds_of_equal_problems_are_counted_not_printed(tmp_path):
    said = problems(rows([f"{i}" for i in range(300)], split="x"), tmp_path)
    assert "300 problems" in said and "and 200 more of these" in said and said.count("\n") == 101


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "pipeline data add m"),
        (b"", "the file is empty"),
        (b"image_id,path\n1,2\n", "no column frame, label"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_with_the_cause(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=expected):
        read_manifest(tmp_path / "m.csv")
