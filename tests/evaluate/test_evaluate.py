"""`evaluate` on trained projects: seeds, subsets, folds, units, comparisons, and its inputs."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ManifestError, PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.evaluate import tables_of
from pipeline.evaluate.scores import METRICS, OVER_CLASSES, holm, verdict
from pipeline.learners.runs import run_inputs
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest, write_manifest
from pipeline.paths import Paths
from pipeline.provenance import changed, read_stamp
from pipeline.report import tables
from pipeline.report.data import load_dataset, select
from tests.learners.faulty import Diverges
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, make_project

from .test_intervals import EVERY_CLASS, PAIRED, UNITS

PARAMS = small_params("zero-shot", "linear-probe", Diverges.name, train__seeds=[0, 1, 2])
PROBE = {"protocol": "official", "learner": "linear-probe", "view": "masked"}
ACCURACY = PROBE | {"metric": "accuracy"}
SMALL = small_params("linear-probe", train__views={"official": ["masked"]}, splits__fractions=[1.0])
EVALUATE = SMALL.evaluate.model_copy(update={"bootstrap": 60, "confidence": 0.9})
CHANGED = SMALL.model_copy(update={"evaluate": EVALUATE})
KEY = ["protocol", "learner", "view", "fraction"]


def make_audit(paths: Paths, manifest: pd.DataFrame, **columns) -> None:
    """Write a leak audit that found no copies, but for the columns given."""
    table = manifest[["image_id", "sha256", "split"]].assign(
        copy_group="", copy_in_train=False, copy_in_train_any=False, label_conflict=False
    )
    table.assign(**columns).to_parquet(paths.audit("toy"))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Paths, dict]:
    """A project of 120 images; of its 30 test images 15 have a copy in train, 5 a turned one."""
    paths = make_project(tmp_path_factory.mktemp("evaluated"), n=120)
    manifest = read_manifest(paths.manifest("toy"))
    leaks = (manifest["split"] == "test") & (manifest.index % 8 == 3)
    turned = (manifest["split"] == "test") & (manifest.index % 12 == 7)
    make_audit(paths, manifest, copy_in_train=leaks, copy_in_train_any=leaks | turned)
    train_dataset("toy", PARAMS, paths)
    return paths, evaluate_dataset("toy", PARAMS, paths)


def rows(paths: Paths, **where) -> pd.DataFrame:
    return select(pd.read_parquet(paths.metrics_table("toy")), **where)


def predictions(paths: Paths, **where) -> pd.DataFrame:
    table = read_tables(paths)[1]
    text = [c for c in table if isinstance(table[c].dtype, pd.CategoricalDtype)]
    table = table.astype(dict.fromkeys(text, str))
    return select(table.assign(hit=table["y_true"] == table["y_pred"]), **where)


def test_every_seed_is_listed_with_its_value_and_the_mean_is_theirs(evaluated):
    paths, _ = evaluated
    table = rows(paths, **ACCURACY, subset="full", fraction=0.2)
    (mean,) = table[table["seed"] == -1].itertuples()
    seeds = table[table["seed"] >= 0].set_index("seed")
    hits = predictions(paths, **PROBE, fraction=0.2).groupby("seed")["hit"].mean()
    assert list(seeds.index) == [0, 1, 2]
    np.testing.assert_allclose([*seeds["value"], mean.value], [*hits, hits.mean()])
    assert mean.lo <= mean.value <= mean.hi and mean.t_lo <= mean.value <= mean.t_hi
    assert mean.n_seeds == 3 and mean.n_images == 30
    assert set(rows(paths)["metric"]) == set(METRICS)
    runs = select(read_tables(paths)[0], **PROBE, fraction=0.2)
    assert mean.n_labels == int(np.median(runs["n_train"] + runs["n_val"]))
    diverged = ACCURACY | {"learner": Diverges.name, "subset": "full", "fraction": 1.0}
    bad, mean = (rows(paths, **diverged, seed=seed).iloc[0] for seed in (1, -1))
    assert np.isnan(bad["value"]) and bad["note"] == "diverged: the loss is nan"
    assert np.isfinite(mean["value"]) and "1 of 3 seeds left out: 1 (diverged)" in mean["note"]


@pytest.mark.promise("Accuracy is also given without the test images that have a copy in train.")
def test_the_clean_subsets_leave_out_the_copies(evaluated):
    paths, _ = evaluated
    table = rows(paths, **ACCURACY, seed=-1, fraction=1.0).set_index("subset")
    assert dict(table["n_images"]) == {"full": 30, "clean": 15, "clean_any": 10}
    assert set(rows(paths, protocol="grouped")["subset"]) == {"full"}
    audit = pd.read_parquet(paths.audit("toy")).set_index("image_id")
    mine = predictions(paths, **PROBE, fraction=1.0)
    for subset, column in (("clean", "copy_in_train"), ("clean_any", "copy_in_train_any")):
        kept = mine[~audit.loc[mine["image_id"], column].to_numpy()]
        assert table["value"][subset] == pytest.approx(kept["hit"].mean())
        # The full test part with the classes in the shares of the subset.
        shares = kept["y_true"].value_counts(normalize=True)
        expected = (mine.groupby("y_true")["hit"].mean()[shares.index] * shares).sum()
        assert table["reweighted"][subset] == pytest.approx(expected)
    assert np.isnan(table["reweighted"]["full"])


@pytest.mark.promise(
    "Pooled cross-validation counts each image once, whatever the number of seeds and folds."
)
@pytest.mark.parametrize(("seeds", "folds"), [([0, 1, 2], 2), ([0, 2], 4)])
def test_more_or_fewer_seeds_than_folds_pool_each_image_once(tmp_path, seeds, folds):
    paths, fraction = make_project(tmp_path), 0.50005  # differs from its float32 to 4 decimals
    params = small_params(
        "linear-probe",
        train__views={"grouped": ["masked"]},
        train__seeds=seeds,
        splits__folds=folds,
        splits__fractions=[fraction],
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    (row,) = rows(paths, protocol="grouped-pooled", metric="accuracy").to_dict("records")
    first = predictions(paths).sort_values("seed", kind="stable").drop_duplicates("image_id")
    assert row["seed"] == -1 and row["fraction"] == fraction
    assert row["value"] == pytest.approx(first["hit"].mean())
    cells = pd.read_csv(paths.plots("toy") / "confusion.csv")
    pooled = cells.loc[cells["protocol"] == "grouped-pooled", "n"].sum()
    assert row["n_images"] == pooled == len(first)
    lacking = 48 - len(first)
    assert (lacking == 0) == (len(seeds) > folds)
    assert row["note"].startswith(f"{lacking} of 48 images lacking" if lacking else "")


def test_shots_are_protocols_of_their_own_beside_the_shares(tmp_path):
    paths = make_project(tmp_path)
    params = small_params(
        *("zero-shot", "linear-probe"),
        train__views={"official": ["whole", "masked"], "grouped": ["whole"]},
        splits__shots={"balanced": [1, 3], "realistic": [2]},
        splits__fractions=[1.0],
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    runs = read_tables(paths)[0].query("protocol.str.contains('shot')")
    assert set(runs["learner"]) == {"linear-probe"} and set(runs["fraction"]) == {1.0}
    used = runs.groupby("protocol")[["n_train", "n_val"]].agg(lambda n: tuple({*n}))
    for protocol in ("official", "grouped"):
        assert tuple(used.loc[f"{protocol}-1-shot"]) == ((3,), (3,))
        assert tuple(used.loc[f"{protocol}-2-shot-realistic"]) == ((6,), (0,))
        assert used.loc[f"{protocol}-3-shot", "n_train"] == (9,)
    accuracy = {"metric": "accuracy", "learner": "linear-probe", "view": "whole"}
    (shares, *shots) = (
        rows(paths, protocol=f"grouped{name}-pooled", **accuracy)["n_images"].tolist()
        for name in ("", "-1-shot", "-2-shot-realistic")
    )
    assert len(shares) == 1 and shots == [shares, shares]
    data = load_dataset("toy", params, paths)
    made = tables.few_shot(data, ("official", "full"), [("linear-probe", "masked")])
    assert made[0].headers[:2] == ["Run", "1 (6 labels)"] and len(made[0].headers) == 3
    assert made[1].headers == ["Run", "2 (6 labels)"]
    assert float(made[0].rows[0][2].split()[0]) > 80
    assert not tables.few_shot(data, ("grouped", "full"), [])[0].rows


@pytest.mark.promise(PAIRED)
def test_every_run_is_compared_with_the_baseline_and_corrected_in_its_family(evaluated):
    paths, _ = evaluated
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    for _, family in table.groupby(["protocol", "subset", "metric", "fraction"]):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]), rtol=1e-4)
    codes = [verdict(*row) for row in table[["lo", "hi", "p_holm"]].to_numpy()]
    assert list(table["verdict"]) == codes and (table["p_holm"] > table["p"]).any()
    block = {"protocol": "official", "subset": "full", "metric": "accuracy", "fraction": 1.0}
    against = select(table, **block, learner_b="linear-probe", view_b="whole")
    expected = [("linear-probe", "masked"), (Diverges.name, "masked"), (Diverges.name, "whole")]
    assert sorted(zip(against["learner_a"], against["view_a"], strict=True)) == sorted(expected)
    (row,) = against[against["learner_a"] == "linear-probe"].itertuples()
    assert row.difference > 0.2 and row.verdict == "better"  # `masked` shows the class


def test_the_tables_of_the_plots_add_up(evaluated):
    paths, summary = evaluated
    plots = {p.stem: pd.read_csv(p, keep_default_na=False) for p in paths.plots("toy").iterdir()}
    cells = plots["confusion"].groupby(KEY)["n"].sum()
    pd.testing.assert_series_equal(cells, plots["reliability"].groupby(KEY)["n"].sum())
    assert set(plots["per_class"]["class"]) == set(CLASSES)
    assert json.loads(paths.metrics("toy").read_text()) == summary
    value = summary["toy"]["official"]["full"]["linear-probe"]["masked"]["1"]["accuracy"]
    mean = rows(paths, **ACCURACY, subset="full", fraction=1.0, seed=-1)["value"].item()
    assert value == pytest.approx(mean, abs=1e-4)
    mine = predictions(paths, **PROBE | {"protocol": "grouped"}, fraction=1.0)
    (row,) = select(plots["test_sets"], protocol="grouped", subset="full").itertuples()
    always = (mine["y_true"] == row.largest_class).groupby(mine["seed"]).mean().mean()
    assert row.n_images == mine["image_id"].nunique()
    assert float(row.largest_share) == pytest.approx(always, abs=1e-6)


def test_a_second_evaluation_writes_the_same_bits_and_another_baseline_compares_with_it(evaluated):
    paths, _ = evaluated
    files = [paths.metrics_table("toy"), paths.metrics("toy"), *paths.plots("toy").iterdir()]
    before = [file.read_bytes() for file in files]
    run = {"learner": "zero-shot", "view": "masked"}
    other = small_params(
        *PARAMS.learners, study__baseline=run, study__runs=[{"name": "Zero-shot", **run}]
    )
    evaluate_dataset("toy", other, paths)
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    assert len(select(table, learner_a="zero-shot", view_a="whole", view_b="masked"))
    evaluate_dataset("toy", PARAMS, paths)
    assert [file.read_bytes() for file in files] == before


def of_means(paths: Paths) -> pd.DataFrame:
    train_dataset("toy", SMALL, paths)
    evaluate_dataset("toy", SMALL, paths)
    return rows(paths, seed=-1, protocol="official", subset="full").set_index("metric")


@pytest.mark.promise(EVERY_CLASS)
def test_where_a_class_is_absent_or_has_one_image_every_metric_is_finite_and_noted(tmp_path):
    labels = [CLASSES[i % 3] for i in range(60)] + ["cyst"] * 10 + ["none"]
    manifest = make_manifest(labels, ["train"] * 60 + ["test"] * 11)
    table = of_means(make_project(tmp_path, manifest=manifest))
    assert set(table.index) == set(METRICS) and np.isfinite(table["value"]).all()
    assert (table["lo"].isna() == table.index.isin(OVER_CLASSES)).all()
    for note in ("no test image: tumour", "one test image only: none"):
        assert table["note"].str.contains(note, regex=False).all()
    tests = pd.read_csv(tmp_path / "cache/toy/plots/test_sets.csv").set_index("protocol")
    assert tests.loc["official", "missing_classes"] == "tumour"
    assert tests.loc["official", "largest_class"] == "cyst"


@pytest.mark.promise(UNITS)
@pytest.mark.parametrize("kind", ["patient_id", "copy_group"])
def test_images_of_a_patient_and_copies_are_resampled_together(tmp_path, kind):
    looks, labels, splits, names = [], [], [], []
    for k in range(36):  # twelve test patients of six images; every third looks like another class
        test, look = k % 3 == 0, CLASSES[k % 4 % 3]
        looks += [look] * 6
        labels += [CLASSES[(CLASSES.index(look) + (test and k % 9 == 0)) % 3]] * 6
        splits += ["test" if test else "train"] * 6
        names += [f"p{k:02d}"] * 6
    manifest = make_manifest(looks, splits).assign(label=labels)
    width = {}
    for units in (72, 12):
        column = {kind: names if units == 12 else ""}
        given = manifest.assign(**column) if kind == "patient_id" else manifest
        paths = make_project(tmp_path / str(units), manifest=given)
        if kind == "copy_group":
            make_audit(paths, manifest, **column)
        row = of_means(paths).loc["accuracy"]
        assert (row["n_images"], row["n_groups"]) == (72, units)
        width[units] = row["hi"] - row["lo"]
    assert width[12] > 1.5 * width[72]


CHAIN = (
    "Masks, features, fitted learners, predictions and the leak audit must have been made from "
    "each other and from today's images and labels; a stage refuses others and names the command."
)


@pytest.mark.promise(CHAIN)
def test_a_learner_that_was_not_trained_or_an_unknown_dataset_is_named_with_the_remedy(evaluated):
    paths, _ = evaluated
    with pytest.raises(PipelineError, match="pipeline train --dataset toy --learner medfocus"):
        evaluate_dataset("toy", small_params("linear-probe", "medfocus"), paths)
    with pytest.raises(ManifestError, match="the datasets are toy"):
        evaluate_dataset("tyo", PARAMS, paths)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Paths:
    """A project that was trained and evaluated, with a leak audit that found no copies."""
    paths = make_project(tmp_path_factory.mktemp("small"))
    make_audit(paths, read_manifest(paths.manifest("toy")))
    of_means(paths)
    return paths


@pytest.fixture
def paths(small, tmp_path) -> Paths:
    """A copy of `small`."""
    shutil.copytree(small.root, tmp_path, dirs_exist_ok=True)
    return Paths(tmp_path)


def change_row(paths: Paths, **columns: str) -> str:
    """Change the manifest's row of the last test image, or remove it; return its id."""
    manifest = read_manifest(paths.manifest("toy"))
    i = manifest.index[manifest["split"] == "test"][-1]
    image_id = manifest["image_id"][i]
    for name, value in columns.items():
        manifest.loc[i, name] = value
    write_manifest(manifest if columns else manifest.drop(i), paths.manifest("toy"))
    return image_id


def new_audit(paths: Paths) -> None:
    make_audit(paths, read_manifest(paths.manifest("toy")), copy_in_train_any=True)


@pytest.mark.promise(CHAIN)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda paths: change_row(paths, label="none"), "manifest"),
        (lambda paths: make_project(paths.root, made="otherwise"), "features"),
        (new_audit, "audit"),
    ],
    ids=["label", "features", "audit"],
)
def test_predictions_made_from_other_inputs_are_refused_until_train_is_run_again(
    paths, change, named
):
    change(paths)
    with pytest.raises(PipelineError, match=rf"other .*{named}.*pipeline train --dataset toy"):
        evaluate_dataset("toy", SMALL, paths)
    of_means(paths)


@pytest.mark.promise(CHAIN)
@pytest.mark.parametrize("columns", [{"split": "train"}, {"sha256": "f" * 64}, {}])
def test_a_leak_audit_of_another_split_or_other_images_is_refused(paths, columns):
    image_id = change_row(paths, **columns)
    with pytest.raises(ManifestError, match=f"{image_id}.*pipeline audit --dataset toy"):
        evaluate_dataset("toy", SMALL, paths)


@pytest.mark.promise("Tables of two evaluations are never taken for one, wherever it was killed.")
@pytest.mark.parametrize("written", [0, 2, 20])
def test_metrics_name_their_inputs_and_the_tables_of_the_same_evaluation(
    paths, monkeypatch, written
):
    table, now = paths.metrics_table("toy"), tables_of(paths, "toy")
    inputs = {"predictions/linear-probe": paths.predictions("toy", "linear-probe")}
    assert changed(read_stamp(table), **inputs, **run_inputs(paths, "toy"), **now) == []
    before = {name: path.read_bytes() for name, path in now.items()}
    replace, done = os.replace, []

    def killed(source, target):
        if "records" not in str(target):
            if len(done) == written:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    monkeypatch.setattr("pipeline.io.os.replace", killed)
    with suppress(KeyboardInterrupt):
        evaluate_dataset("toy", CHANGED, paths)
    other = {name for name, path in now.items() if path.read_bytes() != before[name]}
    assert set(changed(read_stamp(table), **now)) == (set() if table in done else other)
    assert bool(other) == (written > 0)
