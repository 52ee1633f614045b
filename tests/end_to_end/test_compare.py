"""`pipeline evaluate --compare A B`: paired differences on the command line."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from pipeline.evaluate.compare import holm

from .conftest import Project


def compare(project: Project, a: str, b: str) -> pd.DataFrame:
    out = project.run("pipeline", "evaluate", "-d", "breast", "--compare", a, b, "--json")
    return pd.DataFrame(json.loads(out[out.index("[") :]))


def test_a_difference_is_that_of_the_two_figures_and_holms_p_is_never_smaller(
    built_project: Project,
) -> None:
    table = compare(built_project, "masked", "whole")
    metrics = pd.read_parquet(built_project.root / "cache/breast/metrics.parquet")
    key = ["protocol", "subset", "metric", "fraction", "head", "view"]
    value = metrics[metrics["seed"] == -1].set_index(key)["value"]
    for row in table.itertuples():
        where = (row.protocol, row.subset, row.metric, row.fraction)
        expected = value[(*where, row.head_a, "masked")] - value[(*where, row.head_b, "whole")]
        assert row.difference == pytest.approx(expected, abs=1e-9)
        assert row.lo <= row.hi and row.p_holm >= row.p
    assert (table["head_a"] == table["head_b"]).all()
    assert set(table["subset"]) == {"full", "clean", "clean_any"}
    assert set(table["metric"]) == {"accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"}
    # One family: all that is shown.
    assert table["p_holm"].to_numpy() == pytest.approx(holm(table["p"].to_numpy()))


def test_the_other_way_round_the_signs_turn(built_project: Project) -> None:
    one = compare(built_project, "linear-probe/masked", "linear-probe/whole")
    other = compare(built_project, "linear-probe/whole", "linear-probe/masked")
    assert (one["difference"] == -other["difference"]).all()
    assert (one["difference"] != 0).any()
    pd.testing.assert_series_equal(one["p_holm"], other["p_holm"])


def test_it_prints_a_table_and_writes_nothing(built_project: Project) -> None:
    before = {p: p.read_bytes() for p in (built_project.root / "cache/breast").glob("*.*")
              if p.is_file()}  # fmt: skip
    out = built_project.run(
        "pipeline", "evaluate", "-d", "breast", "--compare", "medfocus", "linear-probe"
    )
    header = next(line for line in out.splitlines() if "p_holm" in line).split()
    assert {"fraction", "head_a", "view_a", "difference", "lo", "hi", "p", "n_seeds"} < set(header)
    assert before == {p: p.read_bytes() for p in before}


def test_the_help_says_what_is_compared_and_over_what_is_corrected(built_project: Project) -> None:
    said = " ".join(built_project.run("pipeline", "evaluate", "--help").replace("│", " ").split())
    assert "accuracy, balanced accuracy, macro-F1 and macro-AUROC. p_holm: Holm over all" in said


def test_an_unknown_name_exits_2_and_lists_the_known(built_project: Project) -> None:
    out = built_project.run(
        "pipeline", "evaluate", "-d", "breast", "--compare", "maskd", "whole", code=2
    )
    assert "maskd" in out and "linear-probe/masked" in out and "Traceback" not in out
