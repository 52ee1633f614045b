"""`compare`: what it trains, that its differences are those of `evaluate`, and what it picks."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest

from pipeline.compare import cells_table, planned_runs
from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.comparison import over_sets
from pipeline.learners.choose import choose_run, control_of, kind_of
from pipeline.paths import QuickPaths
from tests.learners.test_train import digests, make_project
from tests.project import REPO, in_process, write_params
from tests.site import Site

VIEWS = ["whole", "masked"]
ROWS = [
    {"name": "Whole image", "learner": "linear-probe", "view": "whole"},
    {"name": "Masked image", "learner": "linear-probe", "view": "masked"},
    {"name": "Prototype", "learner": "nearest-prototype", "view": "whole"},
    {"name": "Zero-shot", "learner": "zero-shot", "view": "masked"},
]
LEARNERS = {"zero-shot": {}, "linear-probe": {"c_steps": 2}, "nearest-prototype": {}}
VALUES = {
    "learners": LEARNERS,
    "train__seeds": [0, 1, 2],
    "splits__fractions": [0.2, 0.5, 1.0],
    "train__views": {"official": VIEWS},
    "study__runs": ROWS,
    "evaluate__bootstrap": 100,
}


def set_params(root, **changed) -> None:
    """Write params.yaml of a project, with the values above."""
    write_params(root, datasets=["toy"], **VALUES | changed)


def compare(root, *options: str) -> str:
    code, said = in_process(root, "compare", "--dataset", "toy", "--jobs", "1", *options)
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A project compared by the command, and what it said."""
    paths = make_project(tmp_path_factory.mktemp("compared"))
    set_params(paths.root)
    return paths, compare(paths.root)


def copy(compared, folder):
    paths = type(compared[0])(shutil.copytree(compared[0].root, folder))
    return paths, load_params(paths.root / "params.yaml")


@pytest.mark.promise(
    "compare trains what the rows of the study need, and a further row costs that row."
)
def test_a_further_row_costs_that_row(compared, tmp_path):
    paths, said = copy(compared, tmp_path / "p")[0], compared[1]
    assert "linear-probe: 18 to do, 0 there" in said and "<- picked on validation" in said
    before = digests(paths)
    joint = {"name": "Both", "learner": "linear-probe", "view": "whole+masked"}
    set_params(paths.root, study__runs=[*ROWS, joint])
    code, said = in_process(paths.root, "compare", "--dataset", "toy")
    assert code == 2 and "row 'Both'" in said and "learners.linear-probe.views" in said
    own = LEARNERS["linear-probe"] | {"views": {"official": [*VIEWS, "whole+masked"]}}
    set_params(paths.root, study__runs=[*ROWS, joint], learners=LEARNERS | {"linear-probe": own})
    said = compare(paths.root)
    assert "linear-probe: 9 to do, 18 there already" in said
    assert "nearest-prototype: 0 to do" in said
    after = digests(paths)
    others = {name for name in before if not name.startswith("linear-probe")}
    assert others and all(after[name] == before[name] for name in others)


@pytest.mark.promise("compare --quick is kept apart and replaces no full result.")
def test_quick_is_kept_apart_and_takes_the_fits_that_are_there(compared, tmp_path):
    paths, _ = copy(compared, tmp_path / "p")
    before, table = digests(paths), paths.compare("toy").read_bytes()
    said = compare(paths.root, "--quick")
    assert "quick: seeds 0, 1, shares 0.2, 1.0" in said and "linear-probe: 0 to do" in said
    assert digests(paths) == before and paths.compare("toy").read_bytes() == table
    quick = pd.read_parquet(QuickPaths(paths.root).compare("toy"))
    assert set(quick["fraction"]) == {-1, 0, 0.2, 1} and quick["n_seeds"].max() == 2


@pytest.mark.promise("After a kill -9 compare goes on with the finished fits.")
def test_after_a_kill_compare_goes_on(tmp_path):
    paths = make_project(tmp_path / "p", n=96)
    set_params(paths.root, learners=LEARNERS | {"linear-probe": {"c_steps": 60}})
    folder = paths.run("toy", "linear-probe")
    running = Site(paths.root).begin("compare", "--dataset", "toy", "--jobs", "1")
    assert running.until(lambda: len([*folder.glob("partial-*")]) >= 2)
    os.killpg(running.pid, signal.SIGKILL)
    running.process.join(60)
    kept = len([*folder.glob("partial-*")])
    assert 2 <= kept < 18
    assert f"linear-probe: {18 - kept} to do, {kept} there already" in compare(paths.root)


@pytest.mark.promise("The differences of the comparison are the paired ones of evaluate.")
def test_differences_are_those_of_evaluate_and_the_mean_is_that_of_the_shares(compared):
    paths = compared[0]
    params = load_params(paths.root / "params.yaml")
    evaluate_dataset("toy", params, paths)
    table = pd.read_parquet(paths.compare("toy"))
    pairs = pd.read_csv(paths.plots("toy") / "comparisons.csv").query(
        "metric == 'accuracy' and learner_a == learner_b == 'linear-probe' and view_a == 'masked'"
    )
    mine = table[(table["number"] == 1) & (table["fraction"] > 0)]
    both = mine.merge(pairs, on=["protocol", "subset", "fraction"])
    assert len(both) == 3
    for name in ("difference", "lo", "hi", "p"):
        np.testing.assert_allclose(both[f"baseline_{name}"], both[name], atol=1e-5)
    mean = table[(table["number"] == 1) & (table["fraction"] == -1)].iloc[0]
    assert mean["accuracy"] == pytest.approx(mine["accuracy"].mean()) and mean["n_fractions"] == 3
    assert mean["baseline_difference"] == pytest.approx(mine["baseline_difference"].mean())
    metrics = pd.read_parquet(paths.metrics_table("toy")).query(
        "seed == -1 and metric == 'accuracy'"
    )
    same = table.merge(metrics, on=["protocol", "subset", "learner", "view", "fraction"])
    assert len(same) == 10
    for name, other in (("accuracy", "value"), ("accuracy_lo", "lo"), ("accuracy_hi", "hi")):
        np.testing.assert_allclose(same[name], same[other])
    assert set(table.loc[table["name"] == "Zero-shot", "baseline_name"]) == {""}
    (sets,) = over_sets(paths, ["toy", "none"]).to_dict("records")
    assert sets["name"] == "Masked image" and sets["p_holm"] == sets["p"] == mean["baseline_p"]


@pytest.mark.promise("The default of predict and the picked row are chosen on validation alone.")
def test_validation_chooses_where_the_test_part_would_choose_another(compared, tmp_path):
    paths, params = copy(compared, tmp_path / "p")
    best = choose_run("toy", params, paths)
    assert (best.learner, best.view) == ("linear-probe", "masked") and best.among == 4
    file = paths.run_table("toy", "linear-probe")
    runs = pd.read_parquet(file)
    full = (runs["fraction"] == 1.0) & (runs["view"] == "whole")
    assert best.val_accuracy == pytest.approx(
        runs.loc[(runs["fraction"] == 1.0) & (runs["view"] == "masked"), "val_score"].mean()
    )
    # Planted: the whole image does best on validation; on the test part it is chance.
    runs.loc[full, "val_score"] = 1.0
    runs.loc[~full, "val_score"] = 0.5
    runs.to_parquet(file)
    assert choose_run("toy", params, paths)[:3] == ("linear-probe", "whole", 1.0)
    assert choose_run("toy", params, paths, view="masked").learner == "nearest-prototype"
    assert choose_run("toy", params, paths, learner="zero-shot").val_accuracy is None
    runs.loc[full, "view"] = "oracle"  # which no new image can be given
    runs.to_parquet(file)
    assert choose_run("toy", params, paths, learner="linear-probe").view == "masked"
    with pytest.raises(PipelineError, match="k-nn"):
        choose_run("toy", params, paths, learner="k-nn")
    with pytest.raises(PipelineError, match="view crop was not trained on protocol official"):
        choose_run("toy", params, paths, view="crop")


def test_views_and_their_controls():
    assert [
        kind_of(v)
        for v in ("whole", "whole+trunk", "whole+dim", "whole+random", "oracle", "crop@reviewed")
    ] == ["whole", "whole", "mask", "control", "truth", "truth"]
    assert control_of("whole+masked+crop") == "whole+random+random-crop"
    assert control_of("whole+inside+crop") == "whole+random-inside+random-crop"
    assert control_of("whole+dim") is control_of("whole") is control_of("random") is None


def test_the_shipped_study_is_trained_with_controls(tmp_path):
    paths = make_project(tmp_path / "p")
    params = load_params(REPO / "params.yaml")
    planned = planned_runs("toy", params, paths)  # ConfigError where a row is not trained
    keys = {run.key for run in params.study.runs}
    # The dataset has no true masks: their row is left out.
    assert ("linear-probe", "oracle") in keys
    assert "oracle" not in {key[1] for key in planned["linear-probe"]}
    for learner, view in keys:
        control = control_of(view)
        if learner == "linear-probe" and control and view != "inside":
            assert (learner, control) in keys, view
    states = {(name, key): "waits" for name, of in planned.items() for key in of}
    table = cells_table("toy", params, states)
    assert table.row_count == len(params.study.runs)
    first = [next(column.cells) for column in table.columns]
    assert first[0] == "Whole image" and "0/10" in first


def test_seconds_and_parameters_are_recorded_apart_from_equal_tables(compared):
    paths = compared[0]
    table = pd.read_parquet(paths.compare("toy")).set_index("name")
    assert (table.loc["Whole image", "n_parameters"] == 24 * 3 + 3).all()
    assert (table.loc["Prototype", "n_parameters"] == 24 * 3).all()
    assert table.loc["Zero-shot", "n_parameters"] == 0
    assert (table["seconds"] >= 0).all()
    seconds = json.loads(paths.seconds("toy", "linear-probe").read_text())
    assert set(seconds) == set(pd.read_parquet(paths.run_table("toy", "linear-probe"))["digest"])
    assert b"seconds" not in (paths.run("toy", "linear-probe") / "fitted.safetensors").read_bytes()
