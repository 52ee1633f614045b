"""`evaluate` on trained projects: every seed, subsets, folds, classes, units and comparisons."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

from pipeline.errors import ManifestError, PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.compare import holm, verdict
from pipeline.evaluate.metrics import METRICS, OVER_CLASSES
from pipeline.evaluate.predictions import image_units
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from pipeline.splits import plan_splits
from tests.data.split_tables import units_of
from tests.learners.faulty import Diverges
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, make_project

from .test_intervals import EVERY_CLASS, UNITS

PARAMS = small_params("zero-shot", "linear-probe", Diverges.name, train__seeds=[0, 1, 2, 3, 4])
PROBE = {"protocol": "official", "learner": "linear-probe", "view": "masked", "metric": "accuracy"}


def audit_of(manifest: pd.DataFrame, **columns) -> pd.DataFrame:
    table = manifest[["image_id", "sha256", "split"]].assign(
        copy_group="", copy_in_train=False, copy_in_train_any=False, label_conflict=False
    )
    return table.assign(**columns)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> tuple[Paths, dict]:
    """A project of 120 images; of its 30 test images 15 have a copy in train, 5 a turned one."""
    paths = make_project(tmp_path_factory.mktemp("evaluated"), n=120)
    manifest = pd.read_csv(paths.manifest("toy"), dtype=str, keep_default_na=False)
    leaks = (manifest["split"] == "test") & (manifest.index % 8 == 3)
    turned = (manifest["split"] == "test") & (manifest.index % 12 == 7)
    audit = audit_of(manifest, copy_in_train=leaks, copy_in_train_any=leaks | turned)
    paths.audit("toy").parent.mkdir(parents=True, exist_ok=True)
    audit.to_parquet(paths.audit("toy"))
    train_dataset("toy", PARAMS, paths)
    return paths, evaluate_dataset("toy", PARAMS, paths)


def rows(paths: Paths, **where) -> pd.DataFrame:
    table = pd.read_parquet(paths.metrics_table("toy"))
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def predictions(paths: Paths, **where) -> pd.DataFrame:
    table = read_tables(paths)[1]
    text = table.columns[[isinstance(t, pd.CategoricalDtype) for t in table.dtypes]]
    table = table.astype(dict.fromkeys(text, str))
    for column, value in where.items():
        same = np.isclose(table[column], value) if column == "fraction" else table[column] == value
        table = table[same]
    return table.assign(hit=table["y_true"] == table["y_pred"])


def test_every_seed_is_listed_with_its_value_and_the_mean_is_theirs(evaluated):
    paths, _ = evaluated
    table = rows(paths, **PROBE, subset="full", fraction=0.2)
    seeds = table[table["seed"] >= 0]
    assert list(seeds["seed"]) == [0, 1, 2, 3, 4]
    for row in seeds.itertuples():
        mine = predictions(
            paths,
            protocol="official",
            learner="linear-probe",
            view="masked",
            fraction=0.2,
            seed=row.seed,
        )
        assert row.value == pytest.approx(accuracy_score(mine["y_true"], mine["y_pred"]))
    (mean,) = table[table["seed"] == -1].itertuples()
    assert mean.value == pytest.approx(seeds["value"].mean())
    assert mean.lo <= mean.value <= mean.hi and mean.t_lo <= mean.value <= mean.t_hi
    assert mean.n_seeds == 5 and mean.n_images == 30
    assert set(rows(paths)["metric"]) == set(METRICS)
    runs = read_tables(paths)[0]
    runs = runs[(runs["protocol"] == "official") & (runs["fraction"] == 0.2)]
    assert mean.n_labels == int(np.median(runs["n_train"] + runs["n_val"]))
    assert set(rows(paths, fraction=0.0)["n_labels"]) == {0}


def test_a_diverged_seed_is_visible_and_the_mean_says_so(evaluated):
    paths, _ = evaluated
    table = rows(paths, **PROBE | {"learner": Diverges.name}, subset="full", fraction=1.0)
    bad = table[table["seed"] == 1].iloc[0]
    assert np.isnan(bad["value"]) and bad["note"] == "diverged: the loss is nan"
    mean = table[table["seed"] == -1].iloc[0]
    assert np.isfinite(mean["value"]) and "1 of 5 seeds left out: 1 (diverged)" in mean["note"]


@pytest.mark.promise("Accuracy is also given without the test images that have a copy in train.")
def test_the_clean_subsets_leave_out_the_copies(evaluated):
    paths, _ = evaluated
    table = rows(paths, **PROBE, seed=-1, fraction=1.0).set_index("subset")
    assert dict(table["n_images"]) == {"full": 30, "clean": 15, "clean_any": 10}
    assert set(rows(paths, protocol="grouped")["subset"]) == {"full"}
    audit = pd.read_parquet(paths.audit("toy")).set_index("image_id")
    mine = predictions(
        paths, protocol="official", learner="linear-probe", view="masked", fraction=1.0
    )
    for subset, column in (("clean", "copy_in_train"), ("clean_any", "copy_in_train_any")):
        kept = mine[~audit.loc[mine["image_id"], column].to_numpy()]
        assert table["value"][subset] == pytest.approx(kept["hit"].mean())
        # The full test part with the classes in the shares of the subset.
        shares = kept["y_true"].value_counts(normalize=True)
        recall = mine.groupby("y_true")["hit"].mean()
        expected = (recall[shares.index] * shares).sum()
        assert table["reweighted"][subset] == pytest.approx(expected)
    assert np.isnan(table["reweighted"]["full"])


def test_pooled_folds_hold_every_image_once(evaluated):
    paths, _ = evaluated
    where = {"protocol": "grouped-pooled", "learner": "linear-probe", "metric": "accuracy"}
    (row,) = rows(paths, **where, fraction=1.0).itertuples()
    assert row.seed == -1 and row.n_images == 120 and "lacking" not in row.note
    cells = pd.read_csv(paths.plots("toy") / "confusion.csv")
    cells = cells[(cells["protocol"] == "grouped-pooled") & (cells["learner"] == "linear-probe")]
    assert cells.loc[cells["fraction"] == 1.0, "n"].sum() == row.n_images
    mine = predictions(paths, protocol="grouped", learner="linear-probe", fraction=1.0)
    assert row.value == pytest.approx(mine["hit"].mean())
    (shot,) = rows(paths, **{**where, "learner": "zero-shot"}).itertuples()
    assert shot.n_images == 120


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
    assert row["fraction"] == fraction and row["value"] == pytest.approx(first["hit"].mean())
    cells = pd.read_csv(paths.plots("toy") / "confusion.csv")
    pooled = cells.loc[cells["protocol"] == "grouped-pooled", "n"].sum()
    assert row["n_images"] == pooled == len(first)
    lacking = 48 - len(first)
    assert (lacking == 0) == (len(seeds) > folds)
    assert row["note"].startswith(f"{lacking} of 48 images lacking" if lacking else "")


@pytest.mark.promise(
    "Compared runs are paired, and p-values corrected for the number of comparisons."
)
def test_every_run_is_compared_with_the_baseline_and_corrected_in_its_family(evaluated):
    paths, _ = evaluated
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    for _, family in table.groupby(["protocol", "subset", "metric", "fraction"]):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]), rtol=1e-4)
    assert (table["p_holm"] > table["p"]).any() and (table["p_holm"] >= table["p"] - 1e-12).all()
    codes = [verdict(*row) for row in table[["lo", "hi", "p_holm"]].to_numpy()]
    assert list(table["verdict"]) == codes
    where = (table["protocol"] == "official") & (table["subset"] == "full")
    where &= (table["metric"] == "accuracy") & (table["fraction"] == 1.0)
    baseline = table[where & (table["learner_b"] == "linear-probe") & (table["view_b"] == "whole")]
    compared = set(zip(baseline["learner_a"], baseline["view_a"], strict=True))
    assert compared == {
        ("linear-probe", "masked"),
        (Diverges.name, "whole"),
        (Diverges.name, "masked"),
    }
    (row,) = baseline[baseline["learner_a"] == "linear-probe"].itertuples()
    assert row.difference > 0.2 and row.verdict == "better"  # `masked` shows the class
    other = small_params(
        *PARAMS.learners,
        train__seeds=PARAMS.train.seeds,
        study__baseline={"learner": "zero-shot", "view": "masked"},
        study__runs=[{"name": "Zero-shot", "learner": "zero-shot", "view": "masked"}],
    )
    evaluate_dataset("toy", other, paths)
    table = pd.read_csv(paths.plots("toy") / "comparisons.csv")
    chosen = table[(table["learner_b"] == "zero-shot") & (table["view_b"] == "masked")]
    assert ("zero-shot", "whole") in set(zip(chosen["learner_a"], chosen["view_a"], strict=True))
    evaluate_dataset("toy", PARAMS, paths)


def test_the_tables_of_the_plots_add_up(evaluated):
    paths, summary = evaluated
    plots = {p.stem: pd.read_csv(p, keep_default_na=False) for p in paths.plots("toy").iterdir()}
    key = ["protocol", "learner", "view", "fraction"]
    cells = plots["confusion"].groupby(key)["n"].sum()
    bins = plots["reliability"].groupby(key)["n"].sum()
    pd.testing.assert_series_equal(cells, bins)
    assert set(plots["per_class"]["class"]) == set(CLASSES)
    assert (plots["curve"]["accuracy"] == plots["curve"]["value"]).all()
    assert json.loads(paths.metrics("toy").read_text()) == summary
    assert "masked" in summary["toy"]["official"]["full"]["linear-probe"]
    tests = plots["test_sets"].set_index(["protocol", "subset"])
    for protocol in ("official", "grouped"):
        mine = predictions(paths, protocol=protocol, learner="linear-probe", fraction=1.0)
        mine = mine[mine["view"] == "masked"]
        row = tests.loc[(protocol, "full")]
        always = (mine["y_true"] == row["largest_class"]).groupby(mine["seed"]).mean().mean()
        assert row["n_images"] == mine["image_id"].nunique()
        assert float(row["largest_share"]) == pytest.approx(always, abs=1e-6)


def test_a_second_evaluation_writes_the_same_bits(evaluated):
    paths, _ = evaluated
    files = [paths.metrics_table("toy"), paths.metrics("toy"), *paths.plots("toy").iterdir()]
    before = [file.read_bytes() for file in files]
    evaluate_dataset("toy", PARAMS, paths)
    assert [file.read_bytes() for file in files] == before


def test_nothing_trained_is_an_error_with_the_command(tmp_path):
    with pytest.raises(PipelineError, match="pipeline train --dataset toy"):
        evaluate_dataset("toy", PARAMS, make_project(tmp_path))


SMALL = small_params(
    "linear-probe",
    train__views={"official": ["masked"]},
    splits__fractions=[1.0],
)


def of_means(paths: Paths) -> pd.DataFrame:
    train_dataset("toy", SMALL, paths)
    evaluate_dataset("toy", SMALL, paths)
    return rows(paths, seed=-1, protocol="official").set_index("metric")


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
            paths.audit("toy").parent.mkdir(parents=True, exist_ok=True)
            audit_of(manifest, **column).to_parquet(paths.audit("toy"))
        table = of_means(paths)
        row = rows(paths, **PROBE, subset="full", seed=-1).iloc[0] if len(table) else None
        assert (row["n_images"], row["n_groups"]) == (72, units)
        width[units] = row["hi"] - row["lo"]
    assert width[12] > 1.5 * width[72]


@pytest.mark.promise(UNITS)
def test_the_resampled_units_are_those_of_the_splits():
    manifest = make_manifest(["cyst"] * 8, ["test"] * 8, patients=["p", "p", *[""] * 6])
    manifest["group"] = ["", "g", "g", "", "", "", "", ""]
    manifest["path"] = ["a", "b", "c", "w.nii", "w.nii", "x", "y", "z"]
    ids = manifest["image_id"].tolist()
    audit = audit_of(manifest, copy_group=["", "", "", "", "k", "k", "", ""])
    joined = image_units(manifest, audit)
    plan = plan_splits(manifest.assign(split="train"), PARAMS.splits, audit)
    assert [joined[i] for i in ids] == units_of(plan, ids)
    parts = [{i for i in ids if joined[i] == name} for name in dict.fromkeys(joined.values())]
    assert sorted(map(len, parts)) == [1, 1, 3, 3]
    assert len(set(image_units(manifest, None).values())) == 5
    assert image_units(manifest.iloc[::-1].reset_index(drop=True), audit) == joined
    with pytest.raises(ManifestError):
        image_units(manifest, audit.assign(sha256="0" * 64))
