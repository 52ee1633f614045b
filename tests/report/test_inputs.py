"""What the report reads of a dataset: what is read is whole and of one training, or is named."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.manifest import OPTIONAL, REQUIRED
from pipeline.report.build import build_report
from pipeline.report.inputs import STAGES, load_inputs


def missing(paths) -> dict[str, str]:
    """What the report of "one" names as missing: the reason by part."""
    return {m.what: m.reason for m in load_inputs("one", paths).missing}


@pytest.mark.parametrize("columns", [REQUIRED, (*REQUIRED, "group", "a column of one's own")])
def test_a_manifest_of_the_required_columns_is_read_as_every_stage_reads_it(fresh, columns):
    params, paths = fresh
    whole = load_inputs("one", paths).manifest
    whole.assign(**{"a column of one's own": "x"})[list(columns)].to_csv(
        paths.manifest("one"), index=False
    )
    found = load_inputs("one", paths)
    assert "manifest" not in missing(paths)
    assert set(OPTIONAL) <= set(found.manifest.columns)
    assert found.units(whole["image_id"]) == list(whole["image_id"])
    assert "36 images, 3 classes" in build_report(params, paths).read_text(encoding="utf-8")


def test_what_is_wrong_with_a_manifest_is_said_with_its_line_and_the_rest_is_shown(fresh):
    params, paths = fresh
    table = pd.read_csv(paths.manifest("one"), dtype=str, keep_default_na=False)
    table.loc[3, "sha256"] = "short"
    table.to_csv(paths.manifest("one"), index=False)
    reason = missing(paths)["manifest"]
    assert reason.startswith("1 problem: line 5, sha256: ") and str(paths.root) not in reason
    assert "Accuracy and the number of labels" in build_report(params, paths).read_text("utf-8")


def test_images_that_are_gone_do_not_stop_the_report(fresh):
    params, paths = fresh
    for file in paths.data("one").rglob("*.png"):
        file.unlink()
    assert "manifest" not in missing(paths)
    assert "cannot be shown" in build_report(params, paths).read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b"\xff", None])
def test_a_damaged_record_is_named_with_its_command_and_the_others_are_read(fresh, stage, damage):
    _, paths = fresh
    before = load_inputs("one", paths).records
    path = paths.record("one", stage)
    if damage is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(damage)
    found = load_inputs("one", paths)
    (named,) = (m for m in found.missing if m.what == f"record of {stage}")
    assert named.path == f"cache/one/records/{stage}.json"
    assert named.command == f"pipeline {stage.replace('_', '-')} --dataset one"
    assert found.records == {k: v for k, v in before.items() if k != stage}
