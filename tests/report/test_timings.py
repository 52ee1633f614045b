"""Times are those of the records, of the run that did the work."""

from __future__ import annotations

import json

from pipeline.report.inputs import STAGES, load_inputs
from pipeline.report.results_tables import (
    time_table,
)
from pipeline.report.sections.timings import timing_table


def test_times_are_those_of_the_records_and_partial_runs_are_marked(found):
    found.records["encode"] = json.loads(json.dumps(found.records["segment"]))
    found.records["encode"]["last_computed"] |= {"skipped": 3, "seconds": 47.0}
    table = time_table([found])
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["segment, s"].text == "12" and row["encode, s"].text == "47*"
    assert row["sum, min"].text == f"{(3 * 12.5 + 47) / 60:.1f}"
    assert "already" in table.note


def test_a_run_that_found_all_there_does_not_hide_what_the_work_cost(found):
    record = found.records["encode"]
    parts = record["seconds"]
    record["last_computed"] |= {"done": 30, "skipped": 2, "parts": parts}
    record |= {"done": 0, "skipped": 32, "seconds": {"total": 0.6}}
    table = timing_table(found)
    row = dict(zip(table.headers, table.rows[STAGES.index("encode")], strict=True))
    assert row["done"].text == "30" and row["in the store already"].text == "2"
    assert row["total, s"].text == "12.5" and row["model, s"].text == "10.0"


def test_a_record_of_an_earlier_version_still_tells_its_time(fresh):
    paths = fresh[1]
    for stage in ("segment", "encode"):
        record = json.loads(paths.record("one", stage).read_text())
        del record["last_computed"]
        if stage == "encode":
            record["done"] = 0  # found all there: what the work cost is not known
        paths.record("one", stage).write_text(json.dumps(record))
    table = time_table([load_inputs("one", paths)])
    row = dict(zip(table.headers, table.rows[0], strict=True))
    assert row["segment, s"].text == "12" and row["encode, s"] is None
