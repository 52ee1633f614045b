"""Copies across two datasets."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audit import compare_datasets
from pipeline.audit.table import COLUMNS
from tests.audit.folder import Folder, film, params, texture


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    made = Folder(tmp_path_factory.mktemp("two"))
    for seed in range(5):
        made.save(f"{seed}.png", texture(seed), split="test", dataset="one")
        made.save(f"film {seed}.png", film(seed), split="test", dataset="one")
        made.save(f"film {seed}.png", film(seed + 5), split="train", dataset="two")
    made.save("same bytes.png", texture(0), split="train", dataset="two")
    gamma = (255 * (texture(1) / 255) ** 0.6).astype(np.uint8)
    made.save("contrast.png", gamma, split="test", dataset="two")
    made.save("turned.png", np.ascontiguousarray(np.rot90(texture(2))), split="val", dataset="two")
    made.save("broken.png", b"nothing", dataset="two")
    return made.write()


def test_copies_are_found_by_kind_and_films_of_others_are_not(folder):
    pairs = compare_datasets("one", "two", params(), folder.paths)
    assert list(pairs.columns) == list(COLUMNS)
    found = pairs[["image_id_a", "image_id_b", "kind", "straddles"]].to_numpy().tolist()
    assert found == [
        ["0.png", "same bytes.png", "byte", True],
        ["1.png", "contrast.png", "near", False],
        ["2.png", "turned.png", "turn", True],
    ]


def test_the_other_way_round_finds_the_same_pairs(folder):
    there = compare_datasets("one", "two", params(), folder.paths)
    back = compare_datasets("two", "one", params(), folder.paths)
    assert set(zip(there["image_id_a"], there["image_id_b"], there["kind"], strict=True)) == set(
        zip(back["image_id_b"], back["image_id_a"], back["kind"], strict=True)
    )


def test_unreadable_images_of_either_are_named(folder):
    pairs = compare_datasets("one", "two", params(), folder.paths)
    unreadable = pairs.attrs["unreadable"]
    assert {name: list(reasons) for name, reasons in unreadable.items()} == {
        "one": [],
        "two": ["broken.png"],
    }


def test_datasets_that_share_nothing_give_an_empty_table(folder, tmp_path):
    other = Folder(tmp_path)
    other.save("a.png", texture(50), dataset="three")
    other.save("b.png", texture(51), dataset="four")
    pairs = compare_datasets("three", "four", params(), other.write().paths)
    assert list(pairs.columns) == list(COLUMNS)
    assert pairs.empty
