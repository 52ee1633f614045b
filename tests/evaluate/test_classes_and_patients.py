"""`evaluate` where a class is missing from the test part, and where images share a patient."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ManifestError
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.bounds import OVER_CLASSES
from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.subsets import image_groups
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from pipeline.report.build import build_report
from pipeline.report.results import write_results
from pipeline.splits import plan_splits
from tests.data.split_tables import units_of
from tests.learners.projects import make_manifest, small_params
from tests.learners.test_train import CLASSES, make_project

PARAMS = small_params(
    "linear-probe",
    "medfocus",
    train__views={"official": ["masked"]},
    train__seeds=[0, 1],
    splits__fractions=[1.0],
    datasets=["toy"],
)


def metrics(paths: Paths) -> pd.DataFrame:
    """The rows over all seeds, of the whole test part."""
    train_dataset("toy", PARAMS, paths)
    evaluate_dataset("toy", PARAMS, paths)
    table = pd.read_parquet(paths.metrics_table("toy"))
    return table[(table["seed"] == -1) & (table["protocol"] == "official")]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory) -> tuple[Paths, pd.DataFrame]:
    """A test part of ten cysts, one "none" and no tumour."""
    labels = [CLASSES[i % 3] for i in range(60)] + ["cyst"] * 10 + ["none"]
    manifest = make_manifest(labels, ["train"] * 60 + ["test"] * 11)
    paths = make_project(tmp_path_factory.mktemp("lacking"), manifest=manifest)
    return paths, metrics(paths)


def test_every_figure_is_finite_where_a_class_is_absent_or_has_one_image(lacking):
    table = lacking[1]
    assert set(table["metric"]) == set(METRICS)
    assert np.isfinite(table["value"]).all()
    # A resample tells nothing of a class of one image: no interval of a mean that it is in.
    drawn = table[~table["metric"].isin(OVER_CLASSES)]
    assert table["lo"].isna().sum() == len(table) - len(drawn)
    assert (drawn["lo"] < drawn["hi"]).all()


def test_the_classes_left_out_are_noted_beside_each_figure_and_in_the_report(lacking):
    paths, table = lacking
    notes = ("left out of means over classes, no test image: tumour", "one test image only: none")
    for note in notes:
        assert table["note"].str.contains(note, regex=False).all()
    html = build_report(PARAMS, paths).read_text(encoding="utf-8")
    (page,) = (p for p in write_results(PARAMS, paths) if p.name == "toy.md")
    why = "no interval of means over classes, one test unit only: none"
    for text in (html, page.read_text(encoding="utf-8")):
        assert f"; {notes[0]}; {why}; {notes[1]}." in text
        assert not re.search(r"[>[ +]nan\b", text)


@pytest.fixture(scope="module")
def patients() -> tuple[pd.DataFrame, list[str]]:
    """Twelve test patients of six images; the images of every third look like another class."""
    looks, labels, splits, names = [], [], [], []
    for k in range(36):
        test, look = k % 3 == 0, CLASSES[k % 4 % 3]
        odd = test and k % 9 == 0
        label = CLASSES[(CLASSES.index(look) + odd) % 3]
        looks += [look] * 6
        labels += [label] * 6
        splits += ["test" if test else "train"] * 6
        names += [f"p{k:02d}"] * 6
    manifest = make_manifest(looks, splits)
    manifest["label"] = labels
    return manifest, names


def test_images_of_a_patient_are_resampled_together(patients, tmp_path):
    manifest, names = patients
    alone = metrics(make_project(tmp_path / "alone", manifest=manifest))
    together = metrics(
        make_project(tmp_path / "together", manifest=manifest.assign(patient_id=names))
    )
    width = {}
    for kind, table in (("alone", alone), ("together", together)):
        row = table[(table["metric"] == "accuracy") & (table["head"] == "linear-probe")].iloc[0]
        assert row["n_images"] == 72
        assert row["n_groups"] == {"alone": 72, "together": 12}[kind]
        width[kind] = row["hi"] - row["lo"]
    assert width["together"] > 1.5 * width["alone"]


def audit_of(manifest: pd.DataFrame, copies: list[str]) -> pd.DataFrame:
    table = manifest[["image_id", "sha256", "split"]].assign(copy_group=copies)
    return table.assign(copy_in_train=False, copy_in_train_any=False, label_conflict=False)


def test_copies_are_resampled_together_and_counted_once(patients, tmp_path):
    manifest, names = patients
    paths = make_project(tmp_path / "copies", manifest=manifest)
    paths.audit("toy").parent.mkdir(parents=True, exist_ok=True)
    audit_of(manifest, names).to_parquet(paths.audit("toy"))
    table = metrics(paths)
    row = table[(table["metric"] == "accuracy") & (table["head"] == "linear-probe")].iloc[0]
    assert (row["n_images"], row["n_groups"]) == (72, 12)
    assert row["hi"] - row["lo"] > 0.3  # a third of the patients are wrong


def test_what_is_resampled_together_are_the_units_of_the_splits():
    manifest = make_manifest(["cyst"] * 8, ["test"] * 8, patients=["p", "p", *[""] * 6])
    manifest["group"] = ["", "g", "g", "", "", "", "", ""]
    manifest["path"] = ["a", "b", "c", "w.nii", "w.nii", "x", "y", "z"]
    ids = manifest["image_id"].tolist()
    audit = audit_of(manifest, ["", "", "", "", "k", "k", "", ""])
    joined = image_groups(manifest, audit)
    plan = plan_splits(manifest.assign(split="train"), PARAMS.splits, audit)
    assert [joined[i] for i in ids] == units_of(plan, ids)
    parts = [{i for i in ids if joined[i] == name} for name in dict.fromkeys(joined.values())]
    assert sorted(map(len, parts)) == [1, 1, 3, 3]
    assert len(set(image_groups(manifest, None).values())) == 5
    turned = manifest.iloc[::-1].reset_index(drop=True)
    assert image_groups(turned, audit) == joined


def test_an_audit_of_other_bytes_is_refused_with_the_command_to_run():
    manifest = make_manifest(["cyst"] * 2, ["test"] * 2)
    audit = audit_of(manifest, ["", ""]).assign(sha256="0" * 64)
    with pytest.raises(ManifestError, match="pipeline data check"):
        image_groups(manifest, audit)
