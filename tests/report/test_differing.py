"""A page says which of the parameters that it prints the runs behind its figures did not have."""

from __future__ import annotations

import json

import pytest

from pipeline.report.build import build_report
from pipeline.report.differing import differing
from pipeline.report.results import write_results

GIVEN = {
    "train": ("train.lambda 0.4 in the run of one", lambda p: {"lambda_": 0.4}),
    "evaluate": ("evaluate.bootstrap 50 in the run of one", lambda p: {"bootstrap": 50}),
    "segment": (
        "segment.prompt full in the run of one",
        lambda p: {"segment": {"prompt": "full"}},
    ),
    "encode": (
        'encode.views ["whole", "masked"] in the run of one',
        lambda p: {"encode": {"views": ["whole", "masked"]}},
    ),
}


def held(params, stage: str) -> dict:
    """What a stage writes of its parameters into its record."""
    section = getattr(params, stage).model_dump(mode="json")
    flat = stage in ("train", "evaluate")
    return section if flat else {"profile": params.profile, stage: section}


def merged(before: dict, new: dict) -> dict:
    return {k: before[k] | v if isinstance(v, dict) else v for k, v in new.items()}


@pytest.mark.parametrize("stage", GIVEN)
def test_a_parameter_that_was_set_for_one_run_is_said_to_differ(fresh, found, stage):
    params, _ = fresh
    said, new = GIVEN[stage]
    for name in GIVEN:
        found.records[name]["parameters"] = held(params, name)
    assert differing([found], params) == []
    of = found.records[stage]["parameters"]
    of |= merged(of, new(params))
    assert differing([found], params) == [f"differs: {said}"]


def test_another_profile_is_said_to_differ_with_its_stage(found, fresh):
    params, _ = fresh
    found.records["encode"]["parameters"] = {"profile": "paper"}
    assert differing([found], params) == ["differs: profile paper in the encode run of one"]


def test_page_and_results_print_it_beside_the_parameters_and_nothing_where_all_agree(fresh, html):
    params, paths = fresh
    assert "differs:" not in html
    record = json.loads(paths.record("one", "train").read_text())
    record["parameters"]["lambda_"] = 0.4
    paths.record("one", "train").write_text(json.dumps(record))
    page = build_report(params, paths).read_text(encoding="utf-8")
    results = {path.name: path for path in write_results(params, paths)}
    for text in (page, results["one.md"].read_text(encoding="utf-8")):
        assert "differs: train.lambda 0.4 in the run of one" in text.split("Parameters")[-1]
        assert "lambda: 0.5" in text
