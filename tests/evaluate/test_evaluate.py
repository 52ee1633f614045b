"""`evaluate` on trained projects: every seed listed, subsets, pooled folds, comparisons."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from pipeline.errors import PipelineError
from pipeline.evaluate import compare_runs, evaluate_dataset
from pipeline.evaluate.compare import holm
from pipeline.evaluate.metrics import METRICS
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from tests.learners.faulty import Diverges
from tests.learners.projects import read_tables, small_params
from tests.learners.test_train import CLASSES, make_project

PARAMS = small_params("zero-shot", "linear-probe", Diverges.name, train__seeds=[0, 1, 2, 3, 4])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Paths, dict]:
    paths = make_project(tmp_path_factory.mktemp("evaluated"), n=120)
    train_dataset("toy", PARAMS, paths)
    manifest = pd.read_csv(paths.manifest("toy"), dtype=str, keep_default_na=False)
    leaks = (manifest["split"] == "test") & (manifest.index % 8 == 3)
    turned = (manifest["split"] == "test") & (manifest.index % 12 == 7)
    audit = manifest[["image_id", "sha256", "split"]].assign(
        copy_group="", copy_in_train=leaks, copy_in_train_any=leaks | turned
    )
    audit.to_parquet(paths.audit("toy"))
    return paths, evaluate_dataset("toy", PARAMS, paths)


def rows(paths: Paths, **where) -> pd.DataFrame:
    table = pd.read_parquet(paths.metrics_table("toy"))
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_every_seed_is_listed_and_the_mean_is_theirs(evaluated):
    paths, _ = evaluated
    where = {"protocol": "official", "subset": "full", "head": "linear-probe", "view": "masked"}
    table = rows(paths, **where, metric="accuracy", fraction=0.2)
    seeds = table[table["seed"] >= 0]
    assert list(seeds["seed"]) == [0, 1, 2, 3, 4]
    (mean,) = table[table["seed"] == -1].itertuples()
    assert mean.value == pytest.approx(seeds["value"].mean())
    assert mean.lo <= mean.value <= mean.hi and mean.t_lo <= mean.value <= mean.t_hi
    assert mean.n_seeds == 5 and mean.n_images == 30
    assert set(rows(paths)["metric"]) == set(METRICS)


def test_the_values_are_those_of_the_predictions(evaluated):
    paths, _ = evaluated
    table = read_tables(paths)[1].rename(columns={"learner": "head"})
    mine = table[
        (table["protocol"] == "official")
        & (table["head"] == "linear-probe")
        & (table["view"] == "masked")
        & (table["seed"] == 2)
        & (table["fraction"] > 0.9)
    ]
    where = {"protocol": "official", "subset": "full", "head": "linear-probe", "view": "masked"}
    (row,) = rows(paths, **where, metric="accuracy", fraction=1.0, seed=2).itertuples()
    assert row.value == pytest.approx(
        accuracy_score(mine["y_true"].astype(str), mine["y_pred"].astype(str))
    )


def test_a_diverged_seed_is_visible_and_the_mean_says_so(evaluated):
    paths, _ = evaluated
    where = {"protocol": "official", "subset": "full", "head": Diverges.name, "view": "masked"}
    table = rows(paths, **where, metric="accuracy", fraction=1.0)
    bad = table[table["seed"] == 1].iloc[0]
    assert np.isnan(bad["value"]) and bad["note"] == "diverged: the loss is nan"
    mean = table[table["seed"] == -1].iloc[0]
    assert np.isfinite(mean["value"]) and "1 of 5 seeds left out: 1 (diverged)" in mean["note"]


def test_the_clean_subsets_leave_out_the_copies(evaluated):
    paths, _ = evaluated
    where = {"protocol": "official", "head": "linear-probe", "view": "masked", "seed": -1}
    table = rows(paths, **where, metric="accuracy", fraction=1.0).set_index("subset")
    assert dict(table["n_images"]) == {"full": 30, "clean": 15, "clean_any": 10}
    assert set(rows(paths, protocol="grouped")["subset"]) == {"full"}


def test_pooled_folds_hold_every_image_once(evaluated):
    paths, _ = evaluated
    where = {"protocol": "grouped-pooled", "head": "linear-probe", "metric": "accuracy"}
    (row,) = rows(paths, **where, fraction=1.0).itertuples()
    assert row.seed == -1 and row.n_images == 120 and "lacking" not in row.note
    cells = pd.read_csv(paths.plots("toy") / "confusion.csv")
    cells = cells[(cells["protocol"] == "grouped-pooled") & (cells["head"] == "linear-probe")]
    assert cells.loc[cells["fraction"] == 1.0, "n"].sum() == row.n_images
    table = read_tables(paths)[1].rename(columns={"learner": "head"})
    mine = table[
        (table["protocol"] == "grouped")
        & (table["head"] == "linear-probe")
        & (table["fraction"] > 0.9)
    ]
    hit = mine["y_true"].astype(str) == mine["y_pred"].astype(str)
    assert row.value == pytest.approx(hit.mean())
    (shot,) = rows(paths, **{**where, "head": "zero-shot"}).itertuples()
    assert shot.n_images == 120


def test_the_labels_used_stand_beside_each_fraction(evaluated):
    paths, _ = evaluated
    runs = read_tables(paths)[0]
    chosen = runs[(runs["protocol"] == "official") & (runs["fraction"] == 0.2)]
    used = int(np.median(chosen["n_train"] + chosen["n_val"]))
    table = rows(paths, protocol="official", fraction=0.2, seed=-1)
    assert set(table["n_labels"]) == {used}
    assert set(rows(paths, fraction=0.0)["n_labels"]) == {0}


def test_the_view_that_shows_the_class_differs_and_pairs_are_paired(evaluated):
    paths, _ = evaluated
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    chosen = table[
        (table["protocol"] == "official")
        & (table["subset"] == "full")
        & (table["metric"] == "accuracy")
        & (table["fraction"] == 1.0)
        & (table["head_a"] == "linear-probe")
        & (table["head_b"] == "linear-probe")
    ]
    (row,) = chosen.itertuples()
    sign = 1 if row.view_a == "masked" else -1
    assert sign * row.difference > 0.2 and row.p_holm < 0.01 and row.lo * row.hi > 0
    assert (table["p_holm"] >= table["p"] - 1e-12).all()


def test_p_values_are_corrected_for_the_comparisons_of_their_family(evaluated):
    paths, _ = evaluated
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    for _, family in table.groupby(["protocol", "subset", "metric", "fraction"]):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]), rtol=1e-4)
    assert (table["p_holm"] > table["p"]).any()


def test_compare_takes_views_heads_and_pairs(evaluated):
    paths, _ = evaluated
    views = compare_runs("toy", PARAMS, paths, "masked", "whole")
    assert set(views["view_a"]) == {"masked"} and (views["head_a"] == views["head_b"]).all()
    heads = compare_runs("toy", PARAMS, paths, "linear-probe", Diverges.name)
    assert (heads["view_a"] == heads["view_b"]).all()
    # Only the seeds that both heads have.
    official = heads[heads["protocol"] == "official"]
    assert set(official["n_seeds"]) == {4}
    pair = compare_runs("toy", PARAMS, paths, "linear-probe/masked", f"{Diverges.name}/whole")
    assert set(pair["view_b"]) == {"whole"}
    with pytest.raises(PipelineError, match="linear-probe/masked"):
        compare_runs("toy", PARAMS, paths, "maskd", "whole")
    with pytest.raises(PipelineError, match="share no view"):
        compare_runs("toy", PARAMS, paths, "masked", "linear-probe")


def test_the_tables_of_the_plots_add_up(evaluated):
    paths, summary = evaluated
    plots = {p.stem: pd.read_csv(p) for p in paths.plots("toy").iterdir()}
    assert set(plots) == {"curve", "confusion", "reliability", "per_class", "comparisons"}
    key = ["protocol", "head", "view", "fraction"]
    cells = plots["confusion"].groupby(key)["n"].sum()
    bins = plots["reliability"].groupby(key)["n"].sum()
    pd.testing.assert_series_equal(cells, bins)
    assert set(plots["per_class"]["class"]) == set(CLASSES)
    assert (plots["curve"]["accuracy"] == plots["curve"]["value"]).all()
    assert json.loads(paths.metrics("toy").read_text()) == summary
    assert "masked" in summary["toy"]["official"]["full"]["linear-probe"]


def test_a_second_evaluation_writes_the_same_bits(evaluated):
    paths, _ = evaluated
    files = [paths.metrics_table("toy"), paths.metrics("toy"), *paths.plots("toy").iterdir()]
    before = [file.read_bytes() for file in files]
    evaluate_dataset("toy", PARAMS, paths)
    assert [file.read_bytes() for file in files] == before


def test_nothing_trained_is_an_error_with_the_command(tmp_path):
    with pytest.raises(PipelineError, match="pipeline train --dataset toy"):
        evaluate_dataset("toy", PARAMS, make_project(tmp_path))
