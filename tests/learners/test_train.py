"""`train` on real stores: complete or refused, reusable, the same bits however it is run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.engine.status import status_rows
from pipeline.errors import ConfigError, PipelineError, StoreError
from pipeline.evaluate import evaluate_dataset
from pipeline.learners import Samples
from pipeline.learners.joint import predict_joined
from pipeline.learners.runs import load_fitted
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.provenance import digest_of, read_stamp
from pipeline.splits import load_split_plan
from pipeline.store import MaskRow, MaskStoreWriter, WorkItem, open_features, open_masks
from tests.learners.projects import blobs, make_manifest, read_tables, small_params, write_features
from tests.learners.test_learners import NAMES, make, samples

CLASSES = ["cyst", "none", "tumour"]
MASKED = {"official": ["masked"]}
PROBE = small_params("linear-probe", train__views=MASKED)


def make_project(folder, *, manifest=None, n=48, failed=(), **of_store) -> Paths:
    """Write a project whose masked view shows the class and whose whole view is noise."""
    paths = Paths(folder)
    if manifest is None:
        labels = [CLASSES[i % 3] for i in range(n)]
        splits = ["test" if i % 4 == 3 else "train" for i in range(n)]
        manifest = make_manifest(labels, splits)
    # The features of an image depend on its id only, wherever the manifest lists it.
    masked = np.zeros((len(manifest), 24), dtype=np.float32)
    whole = np.zeros_like(masked)
    _, text = blobs(CLASSES, CLASSES)
    for i, image_id in enumerate(manifest["image_id"]):
        rng = np.random.default_rng(list(hashlib.sha256(image_id.encode()).digest()))
        shown = image_id.split("/")[0]
        masked[i] = blobs([shown], CLASSES, spread=0)[0][0] + rng.standard_normal(24)
        whole[i] = rng.standard_normal(24)
    views = {"whole": whole, "masked": masked}
    write_features(paths, "toy", manifest, views, text, CLASSES, failed=tuple(failed), **of_store)
    return paths


def train(paths: Paths, params, **options) -> dict[str, int]:
    """Train; return done, skipped, failed and total over all learners."""
    records = train_dataset("toy", params, paths, **options)
    counts = {name: sum(getattr(r, name) for r in records) for name in ("done", "skipped", "total")}
    return counts | {"failed": sum(len(r.failed) for r in records)}


def digests(paths: Paths) -> dict[str, str]:
    """Return the SHA-256 of every output of `train`."""
    root = paths.run("toy", "x").parent
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def fitted_arrays(paths: Paths, learner: str = "linear-probe", view: str = "masked") -> list:
    fitted = load_fitted(paths, "toy", learner, view=view)
    return [array for one in fitted.learners for array in one.tensors.values()]


def check_saved(paths: Paths, learner: str, view: str = "masked", **given) -> None:
    """The learners of a run, loaded again, give the stored predictions, to the bit; `given` are
    further fields of their samples."""
    fitted, store = (
        load_fitted(paths, "toy", learner, view=view),
        open_features(paths.features("toy")),
    )
    table = read_tables(paths)[1].query("learner == @learner and view == @view")
    table = table[table["fraction"] == table["fraction"].max()]
    for seed, one in zip(fitted.seeds, fitted.learners, strict=True):
        mine = table[table["seed"] == seed]
        X = {part: store.image_features(part, list(mine["image_id"])) for part in one.views(view)}
        text = store.class_features(fitted.classes)
        proba = predict_joined(one, Samples(view, X, np.zeros(0, np.int64), text, **given))
        np.testing.assert_array_equal(proba, mine[[f"p:{name}" for name in fitted.classes]])


def last_record(paths: Paths, learner: str) -> dict:
    """What `pipeline status` says of the last training of a learner."""
    return next(r for r in status_rows(paths, ["toy"]) if r["stage"] == f"train-{learner}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    paths = make_project(tmp_path_factory.mktemp("trained"))
    return paths, train(paths, small_params())


def copy_of(trained, folder) -> Paths:
    return Paths(shutil.copytree(trained[0].root, folder))


def test_every_run_has_a_row_with_the_labels_it_used_and_every_test_image(trained):
    paths, counts = trained
    runs, table = read_tables(paths)
    # 3 learners x (2 + 1 views) x 2 fractions x 2 seeds, and zero-shot: 2 + 2 test sets
    assert len(runs) == 3 * 3 * 2 * 2 + 2 + 2 == counts["total"] == counts["done"]
    assert set(runs["status"]) == {"ok"}
    full = runs[(runs["protocol"] == "official") & (runs["fraction"] == 1.0)]
    assert set(full["n_train"] + full["n_val"]) == {36}
    shot = runs[runs["learner"] == "zero-shot"]
    assert set(shot["fraction"]) == {0.0} and set(shot["n_train"] + shot["n_val"]) == {0}
    assert len(table) == runs["n_test"].sum()
    proba = table[[f"p:{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (table["y_pred"].astype(str) == np.array(CLASSES)[proba.argmax(axis=1)]).all()
    official = table[(table["protocol"] == "official") & (table["view"] == "masked")]
    assert (official["image_id"].astype(str).str.split("/").str[0] == official["y_true"]).all()


ONCE = "A fit is computed once: again only if its own code, parameters or data have changed."


@pytest.mark.promise(ONCE)
def test_a_second_run_makes_only_what_was_damaged_and_gives_the_same_bits(trained, tmp_path):
    paths = copy_of(trained, tmp_path / "copy")
    before = digests(paths)
    for table in (paths.run_table("toy", "zero-shot"), paths.predictions("toy", "medfocus")):
        table.write_bytes(b"damaged")
        with pytest.raises(PipelineError, match=r"damaged.*train --dataset toy --learner"):
            read_tables(paths)
    (paths.run("toy", "linear-probe") / "fitted.safetensors").write_bytes(b"damaged")
    counts = train(paths, small_params())
    assert (counts["done"], counts["skipped"]) == (12, counts["total"] - 12)
    assert digests(paths) == before
    # With nothing to do nothing is predicted: the same files, not only the same bytes.
    files = [paths.predictions("toy", name) for name in NAMES]
    inodes = [path.stat().st_ino for path in files]
    assert train(paths, small_params())["skipped"] == counts["total"]
    assert [path.stat().st_ino for path in files] == inodes


@pytest.mark.promise(ONCE)
def test_a_new_lambda_refits_only_the_learner_that_has_it(trained, tmp_path):
    paths = copy_of(trained, tmp_path / "copy")
    counts = train(paths, small_params(learners__medfocus__lambda=0.25))
    assert counts["done"] == 3 * 2 * 2 and counts["skipped"] == counts["total"] - counts["done"]
    changed = {name for name, value in digests(paths).items() if value != digests(trained[0])[name]}
    assert {name.split("/")[0] for name in changed} == {"medfocus"}


@pytest.mark.promise(ONCE)
def test_new_test_images_are_predicted_without_a_new_fit(tmp_path, monkeypatch):
    manifest = make_manifest([CLASSES[i % 3] for i in range(48)], (["train"] * 3 + ["test"]) * 12)
    paths = make_project(tmp_path, manifest=manifest[manifest["image_id"] != "tumour/0047.png"])
    train(paths, PROBE)
    before = fitted_arrays(paths)
    make_project(paths.root, manifest=manifest)
    monkeypatch.setattr("pipeline.learners.linear_probe.LinearProbe.fit", None)
    assert train(paths, PROBE) == {"done": 0, "skipped": 4, "failed": 0, "total": 4}
    assert set(read_tables(paths)[0]["n_test"]) == {12}
    for now, then in zip(fitted_arrays(paths), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.promise(ONCE)
def test_the_probe_takes_F_from_the_medfocus_fits_of_the_same_data(tmp_path, monkeypatch):
    params = small_params("medfocus", "medfocus-probe", train__views=MASKED)
    paths = make_project(tmp_path / "a")
    train(paths, params, learners=["medfocus"])
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.learners.medfocus.MedFocus.fit_fusion", None)
        assert train(paths, params, learners=["medfocus-probe"])["done"] == 4
    other = make_project(tmp_path / "b")
    train(other, params, learners=["medfocus-probe"])
    name = "medfocus-probe/fitted.safetensors"
    assert digests(paths)[name] == digests(other)[name]


@pytest.mark.promise("No test label reaches a learner.")
def test_permuted_test_labels_change_no_fit_and_no_probability(trained, tmp_path):
    manifest = read_manifest(trained[0].manifest("toy"))
    params = small_params(train__views={"official": ["whole", "masked"]})
    plain = copy_of(trained, tmp_path / "a")
    test = manifest["split"] == "test"
    manifest.loc[test, "label"] = np.random.default_rng(0).permutation(manifest.loc[test, "label"])
    moved = make_project(tmp_path / "b", manifest=manifest)
    for one in (plain, moved):
        train(one, params)
    ours, theirs = digests(plain), digests(moved)
    files = [f"{name}/fitted.safetensors" for name in NAMES]
    assert [ours[file] for file in files] == [theirs[file] for file in files]
    a, b = read_tables(plain)[1], read_tables(moved)[1]
    assert (a["y_true"].astype(str) != b["y_true"].astype(str)).any()
    pd.testing.assert_frame_equal(a.drop(columns="y_true"), b.drop(columns="y_true"))


@pytest.mark.promise("A learner is fitted on the training images of its split and no others.")
def test_a_saved_learner_is_fitted_on_the_training_rows_of_its_split(trained):
    paths = trained[0]
    split = load_split_plan("toy", small_params(), paths).get("official", 1, 0.2)
    store = open_features(paths.features("toy"))
    text = store.class_features(CLASSES)
    parts = [store.xy("masked", ids=ids, classes=CLASSES) for ids in (split.train, split.val)]
    own = make("linear-probe").fit(*(samples(X, y, text) for X, y in parts))
    fitted = load_fitted(paths, "toy", "linear-probe", view="masked", fraction=0.2)
    saved = fitted.learners[fitted.seeds.index(1)]
    for tensor, values in own.tensors.items():
        np.testing.assert_allclose(saved.tensors[tensor], values, rtol=1e-4, atol=1e-6)


REFUSED = "Train refuses features that are missing, failed, or of other image bytes or masks."


@pytest.mark.promise(REFUSED)
def test_images_without_features_are_counted_and_training_is_refused(tmp_path):
    manifest = make_manifest(CLASSES * 8, (["train"] * 3 + ["test"]) * 6)
    failed = list(manifest["image_id"][[1, 2, 3]])
    paths = make_project(tmp_path, manifest=manifest, failed=failed)
    with pytest.raises(StoreError) as caught:
        train(paths, PROBE)
    for said in ("of 3 image", "failed in encode", failed[0], "pipeline encode"):
        assert said in str(caught.value)
    assert not digests(paths)
    told = last_record(paths, "linear-probe")
    assert told["status"] == "error" and failed[0] in told["error"]
    X, text = blobs(list(manifest["label"]), CLASSES)
    X[5] = np.nan
    write_features(paths, "toy", manifest, {"oracle": X}, text, CLASSES)
    for view, message in (("crop", "no view 'crop'"), ("oracle", "without view oracle")):
        with pytest.raises(StoreError, match=message):
            train(paths, small_params("linear-probe", train__views={"official": [view]}))


def segment(paths: Paths, size: int) -> dict[str, int]:
    """Make the mask store, each mask a square of `size`; return the checksums by image."""
    manifest = read_manifest(paths.manifest("toy"))
    with MaskStoreWriter(paths.masks("toy"), {"size": size}, on_mismatch="rebuild") as writer:
        writer.sync_manifest(manifest)
        for row in manifest.to_dict("records"):
            mask = np.zeros((32, 32), bool)
            mask[:size, :size] = True
            item = WorkItem(row["image_id"], f"{row['image_id']} {size}", Path(), 0, row)
            writer.plan([item])
            writer.write([item], [MaskRow(row["image_id"], mask)])
        writer.finish()
    return open_masks(paths.masks("toy")).table()["crc"].to_dict()


@pytest.mark.promise(REFUSED)
def test_features_of_other_masks_than_the_mask_store_has_are_not_trained_on(tmp_path):
    paths = make_project(tmp_path, n=12)
    make_project(tmp_path, n=12, made="on masks", mask_crc=segment(paths, size=8))
    train(paths, PROBE)
    segment(paths, size=9)
    with pytest.raises(StoreError, match=r"image.*other masks.*run: pipeline encode"):
        train(paths, PROBE)
    shutil.rmtree(paths.masks("toy"))  # features can be trained on without their masks
    train(paths, PROBE)


MISTYPED = "A mistyped learner or parameter is refused before any work."


@pytest.mark.promise(MISTYPED)
@pytest.mark.parametrize(
    ("learner", "section", "named"),
    [
        ("linear-prob", {}, r"there is no learner 'linear-prob'.*linear-probe"),
        ("linear-probe", {"c_stepz": 1}, r"learners.linear-probe.c_stepz"),
        ("medfocus", {"lambda": 1.5}, r"learners.medfocus.lambda"),
        ("mine", {"file": "no.py"}, r"no\.py"),
    ],
)
def test_a_mistyped_learner_or_parameter_is_an_error_before_any_work(
    tmp_path, learner, section, named
):
    params = small_params("zero-shot", **{f"learners.{learner}": section})
    with pytest.raises(ConfigError, match=named):
        train_dataset("nowhere", params, Paths(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.promise("Predictions of one training are never read with the runs of another.")
def test_predictions_of_other_runs_are_refused_and_made_again(tmp_path):
    paths, other = make_project(tmp_path / "a"), make_project(tmp_path / "b")
    train(paths, PROBE)
    train(other, small_params("linear-probe", train__views=MASKED, splits__val=0.4))
    before = digests(paths)
    shutil.copy(other.predictions("toy", "linear-probe"), paths.predictions("toy", "linear-probe"))
    with pytest.raises(PipelineError, match=r"other runs.*pipeline train --dataset toy"):
        evaluate_dataset("toy", PROBE, paths)
    assert train(paths, PROBE)["done"] == 0
    assert digests(paths) == before


@pytest.mark.promise("Every output states the digests of what it was made from.")
def test_both_tables_state_their_inputs(trained):
    paths, _ = trained
    for learner in NAMES:
        stamped = read_stamp(paths.predictions("toy", learner))
        assert stamped["manifest"] == digest_of(paths.manifest("toy"))
        assert stamped["audit"] == "" and stamped["features"]
        assert stamped["runs"] == digest_of(paths.run_table("toy", learner))
        assert read_stamp(paths.run_table("toy", learner)).items() <= stamped.items()


@pytest.mark.promise("splits.on_leak decides which side of a leak is left out of training or test.")
@pytest.mark.parametrize(("on_leak", "labels", "tested"), [("warn", 36, 12), ("drop-test", 36, 9)])
def test_train_leaves_out_the_copies_that_the_audit_found(tmp_path, on_leak, labels, tested):
    paths = make_project(tmp_path)
    copies = {f"{CLASSES[i % 3]}/{i:04d}.png": CLASSES[i % 3] for i in (0, 3, 1, 7, 2, 11)}
    audit = read_manifest(paths.manifest("toy"))[["image_id", "sha256"]]
    audit = audit.assign(copy_group=audit["image_id"].map(copies).fillna(""))
    audit.to_parquet(paths.audit("toy"), index=False)
    train(paths, small_params("linear-probe", train__views=MASKED, splits__on_leak=on_leak))
    runs = read_tables(paths)[0].query("fraction == 1")
    assert set(runs["n_train"] + runs["n_val"]) == {labels} and set(runs["n_test"]) == {tested}
