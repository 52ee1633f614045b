"""What is said of the paper's splits: copies where its test part is known, none elsewhere."""

from __future__ import annotations

import pytest
from make_inputs import project

from pipeline.report.gallery import Album
from pipeline.report.inputs import load_inputs
from pipeline.report.sections import quoted


@pytest.fixture(scope="module")
def text_of(tmp_path_factory):
    params, paths = project(tmp_path_factory.mktemp("quoted"), "brain", synthetic="0", per_class=6)
    found = load_inputs("brain", paths)

    def text(name: str) -> str:
        found.name = name
        blocks = quoted.section(found, Album(found, 32), params).blocks
        return " ".join(block.text for block in blocks if block.kind == "text")

    return text


@pytest.mark.parametrize(
    ("name", "copies"), [("brain", True), ("covid", True), ("lung", False), ("breast", False)]
)
def test_copies_are_said_of_the_test_parts_that_can_be_had(text_of, name, copies):
    assert ("copies of training images occur" in text_of(name)) is copies


def test_the_split_of_the_breast_set_is_not_published_and_the_lung_set_another_one(text_of):
    assert "on a split that is not published" in text_of("breast")
    assert "The paper's lung set is not this one" in text_of("lung")


def test_our_split_is_said_to_be_drawn_where_the_set_has_none(fresh):
    params, paths = fresh
    found = load_inputs("one", paths)
    found.name, found.manifest = "breast", found.manifest.assign(synthetic="0")
    said = quoted.section(found, Album(found, 32), params).blocks[0].text
    assert "this page on the set's own test part" in said
    found.manifest = found.manifest.assign(split="")
    said = quoted.section(found, Album(found, 32), params).blocks[0].text
    assert "this page on a test part drawn here" in said
