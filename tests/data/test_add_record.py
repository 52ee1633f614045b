"""What `data add` left out stays on record, where status and report find it."""

from __future__ import annotations

import json

import pytest

from pipeline.engine.status import status_rows
from pipeline.intake import add_dataset, refresh_dataset
from tests.data.conftest import picture

RECORD = "What `data add` left out is on record by name and reason, for status and report."


def record(paths) -> dict:
    return json.loads(paths.record("d", "add").read_text(encoding="utf-8"))


@pytest.fixture
def spoiled(scans):
    """The scans with a damaged image, a text file and a mask that fits no image."""
    (scans / "train/cat/empty.png").touch()
    (scans / "notes.txt").write_text("of Jane Doe")
    picture(scans / "train/cat/1_mask.png", size=(5, 5))
    return scans


@pytest.mark.promise(RECORD)
def test_what_was_left_out_is_on_record_by_name_and_reason(spoiled, paths):
    summary = add_dataset("d", spoiled, paths=paths)
    made = record(paths)
    assert (made["stage"], made["dataset"], made["status"]) == ("add", "d", "failed")
    assert made["failed"] == summary.failed and list(made["failed"]) == ["train/cat/empty.png"]
    assert (made["total"], made["done"]) == (25, 24)
    assert made["parameters"]["skipped"] == summary.skipped
    assert summary.skipped["not an image (.txt)"] == 1
    assert list(made["parameters"]["masks_left_out"]) == ["train/cat/1.png"]
    assert str(spoiled) not in json.dumps(made)
    first = status_rows(paths, ["d"])[0]
    assert (first["stage"], first["status"], first["failed"]) == ("add", "failed", 1)
    (spoiled / "train/cat/empty.png").unlink()
    add_dataset("d", spoiled, paths=paths)
    assert (record(paths)["status"], record(paths)["failed"]) == ("ok", {})


@pytest.mark.promise(RECORD)
def test_refresh_keeps_what_it_does_not_look_at_and_adds_what_is_gone(spoiled, paths):
    add_dataset("d", spoiled, paths=paths)
    before = record(paths)
    (spoiled / "train/cat/2.png").unlink()
    assert list(refresh_dataset("d", paths=paths).failed) == ["train/cat/2.png"]
    made = record(paths)
    assert list(made["failed"]) == ["train/cat/2.png", "train/cat/empty.png"]
    assert (made["total"], made["done"]) == (25, 23)
    assert made["parameters"] == before["parameters"]
    picture(spoiled / "train/cat/2.png")
    assert not refresh_dataset("d", paths=paths).failed
    assert list(record(paths)["failed"]) == ["train/cat/empty.png"]


def test_where_no_record_can_be_written_the_manifest_stands_and_the_summary_says_so(scans, paths):
    (paths.root / "cache").write_text("in the way")
    summary = add_dataset("d", scans, paths=paths)
    assert summary.images == 24 and paths.manifest("d").is_file()
    assert [text for text in summary.warnings if "add.json" in text]
