"""`train` on real stores: complete or refused, reusable, the same bits however it is run."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.engine.status import status_rows
from pipeline.errors import ConfigError, PipelineError, StoreError
from pipeline.evaluate import evaluate_dataset
from pipeline.heads import load_head
from pipeline.paths import Paths
from pipeline.store import open_features
from pipeline.train import train_dataset
from tests.heads.projects import blobs, make_manifest, small_params, write_features

CLASSES = ["cyst", "none", "tumour"]
HEADS = ["zero-shot", "linear-probe", "medfocus", "medfocus-probe"]


def make_project(folder, *, manifest=None, n=48, failed=(), **of_store) -> Paths:
    """Write a project whose masked view shows the class and whose whole view is noise."""
    paths = Paths(folder)
    if manifest is None:
        labels = [CLASSES[i % 3] for i in range(n)]
        splits = ["test" if i % 4 == 3 else "train" for i in range(n)]
        manifest = make_manifest(labels, splits)
    # A feature belongs to its image, wherever the manifest lists it.
    order = np.argsort(manifest["image_id"].to_numpy())
    masked = np.zeros((len(manifest), 24), dtype=np.float32)
    whole = np.zeros_like(masked)
    _, text = blobs(CLASSES, CLASSES)
    for i in order:
        image_id = manifest["image_id"][i]
        rng = np.random.default_rng(list(hashlib.sha256(image_id.encode()).digest()))
        look = image_id.split("/")[0]
        masked[i] = blobs([look], CLASSES, spread=0)[0][0] + rng.standard_normal(24)
        whole[i] = rng.standard_normal(24)
    views = {"whole": whole, "masked": masked}
    write_features(paths, "toy", manifest, views, text, CLASSES, failed=tuple(failed), **of_store)
    return paths


def digests(paths: Paths) -> dict[str, str]:
    """Return the SHA-256 of every output of `train`."""
    files = [paths.runs("toy"), paths.predictions("toy"), *sorted(paths.heads("toy").iterdir())]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def head_digests(paths: Paths) -> dict[str, str]:
    return {k: v for k, v in digests(paths).items() if not k.endswith(".parquet")}


def told(paths: Paths) -> dict:
    """What `pipeline status` says of the last run of train."""
    return next(row for row in status_rows(paths, ["toy"]) if row["stage"] == "train")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("trained"))
    return paths, train_dataset("toy", small_params(), paths)


def copy_of(trained, folder) -> Paths:
    """Return a copy of the trained project, whose fits are not done again."""
    return Paths(shutil.copytree(trained[0].root, folder))


def test_every_cell_has_a_row_with_the_labels_it_used(trained):
    paths, record = trained
    runs = pd.read_parquet(paths.runs("toy"))
    # 3 heads x (2 + 1 views) x 2 fractions x 2 seeds, and zero-shot: 2 + 2 test sets
    assert len(runs) == 3 * 3 * 2 * 2 + 2 + 2 == record.total
    assert set(runs["status"]) == {"ok"}
    full = runs[(runs["protocol"] == "official") & (runs["fraction"] == 1.0)]
    assert set(full["n_train"] + full["n_val"]) == {36}
    shot = runs[runs["head"] == "zero-shot"]
    assert set(shot["fraction"]) == {0.0} and set(shot["n_train"] + shot["n_val"]) == {0}


def test_predictions_hold_every_test_image_of_every_run(trained):
    paths, _ = trained
    runs, table = pd.read_parquet(paths.runs("toy")), pd.read_parquet(paths.predictions("toy"))
    assert len(table) == runs["n_test"].sum()
    proba = table[[f"p:{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (table["y_pred"].astype(str) == np.array(CLASSES)[proba.argmax(axis=1)]).all()
    official = table[(table["protocol"] == "official") & (table["view"] == "masked")]
    assert (official["image_id"].astype(str).str.split("/").str[0] == official["y_true"]).all()


def test_the_view_that_shows_the_class_wins(trained):
    table = pd.read_parquet(trained[0].predictions("toy"))
    table = table[(table["protocol"] == "official") & (table["head"] == "linear-probe")]
    hit = table["y_true"].astype(str) == table["y_pred"].astype(str)
    accuracy = hit.groupby(table["view"].astype(str)).mean()
    assert accuracy["masked"] > accuracy["whole"] + 0.2


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_gives_the_stored_predictions(trained, name):
    paths, _ = trained
    fraction, seed = (0.0, 0) if name == "zero-shot" else (0.2, 1)
    place = {"protocol": "official", "view": "masked", "fraction": fraction, "seed": seed}
    head, classes = load_head(paths.heads("toy"), name, **place)
    table = pd.read_parquet(paths.predictions("toy")).query(
        "protocol == 'official' and view == 'masked' and head == @name and seed == @seed"
    )
    table = table[np.isclose(table["fraction"], fraction)]
    X = open_features(paths.features("toy")).image_features("masked", list(table["image_id"]))
    np.testing.assert_array_equal(
        head.predict_proba(X), table[[f"p:{c}" for c in classes]].to_numpy()
    )


def test_a_second_run_fits_nothing_and_writes_the_same_bits(trained):
    paths, _ = trained
    before = digests(paths)
    record = train_dataset("toy", small_params(), paths)
    assert (record.done, record.skipped) == (0, record.total)
    assert digests(paths) == before


def test_two_jobs_and_a_fresh_folder_give_the_same_bits(trained, tmp_path):
    again = make_project(tmp_path)
    train_dataset("toy", small_params(), again, jobs=2)
    assert digests(again) == digests(trained[0])


def test_a_new_lambda_refits_only_the_medfocus_heads(trained, tmp_path):
    paths = copy_of(trained, tmp_path / "copy")
    record = train_dataset("toy", small_params(train__lambda=0.25), paths)
    assert record.done == 2 * 3 * 2 * 2
    changed = {k for k, v in digests(paths).items() if v != digests(trained[0])[k]}
    assert not {f for f in changed if f.startswith(("linear-probe", "zero-shot"))}
    assert "medfocus.safetensors" in changed


def test_without_any_test_row_the_same_heads_are_saved_and_evaluate_says_what_is_missing(
    trained, tmp_path
):
    paths = copy_of(trained, tmp_path / "a")
    params = small_params(train__views={"official": ["masked"]})
    assert not train_dataset("toy", params, paths).done
    manifest = pd.read_csv(paths.manifest("toy"), dtype=str, keep_default_na=False)
    rest = manifest[manifest["split"] != "test"].reset_index(drop=True)
    cut = make_project(tmp_path / "b", manifest=rest)
    record = train_dataset("toy", params, cut)
    assert head_digests(cut) == head_digests(paths)
    assert any("no image says test" in note for note in record.parameters["notes"])
    assert not train_dataset("toy", params, cut).done
    with pytest.raises(PipelineError, match="no protocol has a test image"):
        evaluate_dataset("toy", params, cut)


def test_permuted_test_labels_change_no_head_and_no_probability(trained, tmp_path):
    paths, _ = trained
    manifest = pd.read_csv(paths.manifest("toy"), dtype=str, keep_default_na=False)
    params = small_params(train__views={"official": ["whole", "masked"]})
    plain = copy_of(trained, tmp_path / "a")
    test = manifest["split"] == "test"
    manifest.loc[test, "label"] = np.random.default_rng(0).permutation(manifest.loc[test, "label"])
    moved = make_project(tmp_path / "b", manifest=manifest)
    for one in (plain, moved):
        train_dataset("toy", params, one)
    assert head_digests(plain) == head_digests(moved)
    a, b = (pd.read_parquet(p.predictions("toy")) for p in (plain, moved))
    assert (a["y_true"].astype(str) != b["y_true"].astype(str)).any()
    pd.testing.assert_frame_equal(a.drop(columns="y_true"), b.drop(columns="y_true"))


def test_the_order_of_the_manifest_changes_nothing(trained, tmp_path):
    manifest = pd.read_csv(trained[0].manifest("toy"), dtype=str, keep_default_na=False)
    shuffled = manifest.sample(frac=1, random_state=0).reset_index(drop=True)
    again = make_project(tmp_path, manifest=shuffled)
    train_dataset("toy", small_params(), again)
    assert digests(again) == digests(trained[0])


def test_images_without_features_are_counted_and_training_is_refused(tmp_path):
    manifest = make_manifest(CLASSES * 8, ["train", "train", "test"] * 8)
    manifest["split"] = ["test" if i % 4 == 3 else "train" for i in range(24)]
    failed = list(manifest["image_id"][[1, 2, 3]])
    paths = make_project(tmp_path, manifest=manifest, failed=failed)
    with pytest.raises(StoreError) as caught:
        train_dataset("toy", small_params(train__views={"official": ["masked"]}), paths)
    text = str(caught.value)
    assert "2 image(s) official, train and validation: failed in encode" in text
    assert "1 image(s) official, test: failed in encode" in text
    assert failed[0] in text and "pipeline encode" in text
    assert not paths.runs("toy").exists()
    assert told(paths)["status"] == "error" and failed[0] in told(paths)["error"]


def test_a_mistyped_head_is_an_error_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no head 'linear-prob'.*linear-probe"):
        train_dataset("nowhere", small_params(train__heads=["linear-prob"]), Paths(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_view_that_was_not_encoded_is_named(trained):
    with pytest.raises(StoreError, match="no view crop"):
        train_dataset("toy", small_params(train__views={"official": ["crop"]}), trained[0])


def test_a_view_that_some_images_lack_is_refused(tmp_path):
    manifest = make_manifest(CLASSES * 8, ["test" if i % 4 == 3 else "train" for i in range(24)])
    paths = Paths(tmp_path)
    X, text = blobs(list(manifest["label"]), CLASSES)
    X[5] = np.nan
    write_features(paths, "toy", manifest, {"oracle": X}, text, CLASSES)
    with pytest.raises(StoreError, match=r"1 image\(s\) official, .*: have no view oracle"):
        train_dataset("toy", small_params(train__views={"official": ["oracle"]}), paths)


def test_no_feature_store_is_an_error_with_a_remedy(tmp_path, trained):
    paths = Paths(tmp_path)
    manifest = trained[0].manifest("toy")
    paths.manifest("toy").parent.mkdir(parents=True)
    paths.manifest("toy").write_bytes(manifest.read_bytes())
    with pytest.raises(PipelineError, match="encode"):
        train_dataset("toy", small_params(), paths)


def test_a_damaged_output_is_computed_again(trained, tmp_path):
    paths = make_project(tmp_path)
    params = small_params(train__heads=["linear-probe"], train__views={"official": ["masked"]})
    train_dataset("toy", params, paths)
    before = digests(paths)
    paths.predictions("toy").write_bytes(b"not parquet")
    (paths.heads("toy") / "linear-probe.json").write_text("{")
    train_dataset("toy", params, paths)
    assert digests(paths) == before


def test_the_record_says_what_was_fitted_and_with_which_versions(trained):
    paths, record = trained
    saved = json.loads(paths.record("toy", "train").read_text())
    assert saved["stage"] == "train" and saved["parameters"]["lambda_"] == 0.5
    assert {"torch", "scikit-learn", "numpy"} <= set(record.versions)
