"""Masks, features, heads, predictions and leak audit must be of each other, whoever ran what."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.audit.table import read_audit
from pipeline.engine import WorkItem
from pipeline.errors import ManifestError, PipelineError, StoreError
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.runs import load_fitted
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest, write_manifest
from pipeline.paths import Paths
from pipeline.report.inputs import load_inputs
from pipeline.stores import MaskRow, MaskStoreWriter, open_features, open_masks
from tests.learners.projects import small_params
from tests.learners.test_train import make_project

PARAMS = small_params("linear-probe", train__views={"official": ["masked"]})


@pytest.fixture
def paths(tmp_path) -> Paths:
    """A project that has been trained and evaluated, with a leak audit that knows no copies."""
    paths = make_project(tmp_path)
    manifest = read_manifest(paths.manifest("toy"))
    audit = manifest[["image_id", "sha256", "split"]].assign(copy_group=manifest["image_id"])
    audit.assign(copy_in_train=False, copy_in_train_any=False).to_parquet(paths.audit("toy"))
    train_dataset("toy", PARAMS, paths)
    evaluate_dataset("toy", PARAMS, paths)
    return paths


def change(paths: Paths, **columns: str) -> str:
    """Change columns of the manifest's last test image (None: take it out); return its id."""
    manifest = read_manifest(paths.manifest("toy"))
    i = manifest.index[manifest["split"] == "test"][-1]
    image_id = manifest["image_id"][i]
    for name, value in columns.items():
        manifest.loc[i, name] = value
    write_manifest(manifest if columns else manifest.drop(i), paths.manifest("toy"))
    return image_id


def segment(paths: Paths, size: int, *, fails: bool = False) -> dict[str, int]:
    """Make the mask store, each mask a square of `size`; return the checksums by image."""
    manifest = read_manifest(paths.manifest("toy"))
    identity = {"size": size}
    with MaskStoreWriter(paths.masks("toy"), identity, on_mismatch="rebuild") as writer:
        writer.sync_manifest(manifest)
        for row in manifest.to_dict("records"):
            mask = np.zeros((32, 32), bool)
            mask[:size, :size] = True
            item = WorkItem(row["image_id"], f"{row['image_id']} {size}", Path(), 0, row)
            writer.plan([item])
            if fails:
                writer.write_failed(item, "cannot be read")
            else:
                writer.write([item], [MaskRow(row["image_id"], mask)])
        writer.finish()
    return open_masks(paths.masks("toy")).table()["crc"].to_dict()


@pytest.mark.parametrize("columns", [{"label": "none"}, {}], ids=["relabelled", "gone"])
def test_predictions_of_an_image_that_changed_since_are_not_evaluated(paths, columns):
    image_id = change(paths, **columns)
    with pytest.raises(PipelineError, match=image_id) as caught:
        evaluate_dataset("toy", PARAMS, paths)
    assert "pipeline train --dataset toy" in str(caught.value)


def test_predictions_of_other_features_are_not_evaluated_until_heads_are_trained_on_these(paths):
    make_project(paths.root, made="otherwise")
    with pytest.raises(PipelineError, match=r"other features.*pipeline train --dataset toy"):
        evaluate_dataset("toy", PARAMS, paths)
    (record,) = train_dataset("toy", PARAMS, paths)
    assert record.done == 0  # the rows are the same, so that no fit is done again
    evaluate_dataset("toy", PARAMS, paths)


def test_saved_heads_say_what_features_they_learned_from(paths):
    identity = open_features(paths.features("toy")).identity
    assert load_fitted(paths, "toy", "linear-probe", view="masked").features == identity
    make_project(paths.root, made="otherwise")
    assert load_fitted(paths, "toy", "linear-probe", view="masked").features == identity
    train_dataset("toy", PARAMS, paths)
    now = open_features(paths.features("toy")).identity
    assert load_fitted(paths, "toy", "linear-probe", view="masked").features == now != identity


@pytest.mark.parametrize("columns", [{"split": "train"}, {"sha256": "f" * 64}, {}])
def test_a_leak_audit_of_another_split_or_other_images_is_refused(paths, columns):
    file = paths.audit("toy")
    assert read_audit(file, read_manifest(paths.manifest("toy"))) is not None
    image_id = change(paths, **columns)
    with pytest.raises(ManifestError, match=image_id) as caught:
        read_audit(file, read_manifest(paths.manifest("toy")))
    assert "pipeline audit --dataset toy" in str(caught.value)


def test_the_order_of_the_manifest_makes_no_audit_old(paths):
    manifest = read_manifest(paths.manifest("toy"))
    write_manifest(manifest.iloc[::-1], paths.manifest("toy"))
    assert read_audit(paths.audit("toy"), read_manifest(paths.manifest("toy"))) is not None


def test_features_of_other_masks_than_the_mask_store_has_are_not_trained_on(paths):
    crcs = segment(paths, size=8)
    make_project(paths.root, made="on masks", mask_crc=crcs)
    assert train_dataset("toy", PARAMS, paths)[0].status == "ok"
    segment(paths, size=9)
    with pytest.raises(StoreError, match=r"12 image.*other masks.*run: pipeline encode"):
        train_dataset("toy", PARAMS, paths, force=True)
    make_project(paths.root, made="on masks again", mask_crc=segment(paths, size=9))
    assert train_dataset("toy", PARAMS, paths)[0].status == "ok"


def test_a_feature_store_without_its_masks_beside_it_can_be_trained_on(paths):
    make_project(paths.root, made="on masks", mask_crc=dict.fromkeys(segment(paths, size=8), 7))
    shutil.rmtree(paths.masks("toy"))
    assert train_dataset("toy", PARAMS, paths)[0].status == "ok"


def test_images_whose_masks_failed_since_are_trained_on_as_they_were_encoded(paths):
    make_project(paths.root, made="on masks", mask_crc=segment(paths, size=8))
    segment(paths, size=9, fails=True)
    assert train_dataset("toy", PARAMS, paths)[0].status == "ok"


TABLES = ("metrics.parquet", "mask_quality.parquet", "per_class.csv", "comparisons.csv")


def shown(paths: Paths) -> dict[str, bytes]:
    """The tables that the report takes, by name: those that `load_inputs` does not list."""
    missing = {Path(m.path).name for m in load_inputs("toy", paths).missing}
    files = (paths.metrics_table("toy"), paths.mask_quality("toy"), *paths.plots("toy").iterdir())
    return {f.name: f.read_bytes() for f in files if f.name in set(TABLES) - missing}


@pytest.mark.parametrize("retrained", [False, True])
@pytest.mark.parametrize("written", range(8))
def test_wherever_evaluate_is_killed_the_report_takes_tables_of_one_evaluation(
    paths, monkeypatch, retrained, written
):
    old = shown(paths)
    assert set(old) == set(TABLES)
    params = small_params(
        "linear-probe",
        train__views={"official": ["masked"]},
        train__seeds=[5, 6] if retrained else PARAMS.train.seeds,
        evaluate__bootstrap=60,
    )
    if retrained:
        train_dataset("toy", params, paths)
        assert set(shown(paths)) == {"mask_quality.parquet"}
    replace, done = os.replace, []

    def killed(source, target):
        if "records" not in str(target):
            done.append(target)
            if len(done) > written:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr("pipeline.io.os.replace", killed)
        evaluate_dataset("toy", params, paths)
    left = shown(paths)
    evaluate_dataset("toy", params, paths)
    new = shown(paths)
    assert set(new) == set(TABLES) and new["per_class.csv"] != old["per_class.csv"]
    whole = new if left.get("metrics.parquet") == new["metrics.parquet"] else old
    assert left.items() <= whole.items()
    assert not (retrained and "metrics.parquet" in left) or left == new
