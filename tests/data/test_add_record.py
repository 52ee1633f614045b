"""What `data add` left out stays on record, where status and report find it."""

from __future__ import annotations

import json

import pytest

from pipeline.engine.record import status_rows
from pipeline.intake import add_dataset
from tests.data.conftest import picture


@pytest.mark.promise(
    "What `data add` left out is on record by name and reason, for status and report."
)
def test_what_was_left_out_is_on_record_by_name_and_reason(scans, paths):
    def record() -> dict:
        return json.loads(paths.record("d", "add").read_text(encoding="utf-8"))

    (scans / "train/cat/empty.png").touch()
    (scans / "notes.txt").write_text("of Jane Doe")
    picture(scans / "train/cat/1_mask.png", size=(5, 5))
    summary = add_dataset("d", scans, paths=paths)
    made = record()
    assert (made["stage"], made["dataset"], made["status"]) == ("add", "d", "failed")
    assert made["failed"] == summary.failed and list(made["failed"]) == ["train/cat/empty.png"]
    assert (made["total"], made["done"]) == (25, 24)
    assert made["parameters"]["skipped"] == summary.skipped
    assert summary.skipped["not an image (.txt)"] == 1
    assert list(made["parameters"]["masks_left_out"]) == ["train/cat/1.png"]
    assert str(scans) not in json.dumps(made)
    first = status_rows(paths, ["d"])[0]
    assert (first["stage"], first["status"], first["failed"]) == ("add", "failed", 1)
    (scans / "train/cat/empty.png").unlink()
    add_dataset("d", scans, paths=paths)
    assert (record()["status"], record()["failed"]) == ("ok", {})
