"""`evaluate` refuses inputs that do not belong together, and its tables name theirs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from pipeline.audit.table import read_audit
from pipeline.errors import ManifestError, PipelineError
from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.evaluate import tables
from pipeline.learners.runs import run_inputs
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest, write_manifest
from pipeline.paths import Paths
from pipeline.provenance import changed, read_stamp
from tests.learners.projects import small_params
from tests.learners.test_train import make_project

PARAMS = small_params("linear-probe", train__views={"official": ["masked"]})
CHAIN = (
    "Masks, features, fitted learners, predictions and the leak audit must have been made from "
    "each other and from today's images and labels; a stage refuses others and names the command."
)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A project that was trained and evaluated, with a leak audit that found no copies."""
    paths = make_project(tmp_path)
    manifest = read_manifest(paths.manifest("toy"))
    audit = manifest[["image_id", "sha256", "split"]].assign(copy_group=manifest["image_id"])
    audit = audit.assign(copy_in_train=False, copy_in_train_any=False, label_conflict=False)
    audit.to_parquet(paths.audit("toy"))
    train_dataset("toy", PARAMS, paths)
    evaluate_dataset("toy", PARAMS, paths)
    return paths


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
    audit = pd.read_parquet(paths.audit("toy"))
    audit.assign(copy_in_train=audit["split"] == "test").to_parquet(paths.audit("toy"))


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
        evaluate_dataset("toy", PARAMS, paths)
    train_dataset("toy", PARAMS, paths)
    evaluate_dataset("toy", PARAMS, paths)


@pytest.mark.promise(CHAIN)
@pytest.mark.parametrize("columns", [{"split": "train"}, {"sha256": "f" * 64}, {}])
def test_a_leak_audit_of_another_split_or_other_images_is_refused(paths, columns):
    image_id = change_row(paths, **columns)
    with pytest.raises(ManifestError, match=image_id) as caught:
        evaluate_dataset("toy", PARAMS, paths)
    assert "pipeline audit --dataset toy" in str(caught.value)


def test_the_order_of_the_manifest_does_not_outdate_the_audit(paths):
    manifest = read_manifest(paths.manifest("toy"))
    write_manifest(manifest.iloc[::-1], paths.manifest("toy"))
    assert read_audit(paths.audit("toy"), read_manifest(paths.manifest("toy"))) is not None


@pytest.mark.promise("Tables of two evaluations are never taken for one, wherever it was killed.")
@pytest.mark.parametrize("written", [0, 2, 5, 20])
def test_metrics_name_their_inputs_and_the_tables_of_the_same_evaluation(
    paths, monkeypatch, written
):
    stamped, now = read_stamp(paths.metrics_table("toy")), tables(paths, "toy")
    inputs = {"predictions/linear-probe": paths.predictions("toy", "linear-probe")}
    inputs |= run_inputs(paths, "toy")
    assert changed(stamped, **inputs, **now) == []
    assert read_stamp(paths.mask_quality("toy"))["manifest"] == stamped["manifest"]
    before = {name: path.read_bytes() for name, path in now.items()}
    replace, done = os.replace, []

    def killed(source, target):
        if "records" not in str(target):
            if len(done) == written:
                raise KeyboardInterrupt
            done.append(target)
        replace(source, target)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr("pipeline.io.os.replace", killed)
        evaluate_dataset("toy", small_params(*PARAMS.learners, evaluate__bootstrap=60), paths)
    other = {name for name, path in now.items() if path.read_bytes() != before[name]}
    stamped = read_stamp(paths.metrics_table("toy"))
    assert set(changed(stamped, **now)) == (set() if paths.metrics_table("toy") in done else other)
    assert bool(other) == (written > 0)
