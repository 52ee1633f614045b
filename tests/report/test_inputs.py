"""What the report reads of a dataset: what is read is whole and of one training, or is named."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from make_inputs import restamp
from pipeline.evaluate.pairing import write_stamped
from pipeline.training.pairing import pairing

from pipeline.manifest import OPTIONAL, REQUIRED
from pipeline.report.build import build_report
from pipeline.report.inputs import STAGES, load_inputs
from pipeline.report.results import write_results
from tests.learners.projects import write_features


def missing(paths) -> dict[str, str]:
    """What the report of "one" names as missing: the reason by part."""
    return {m.what: m.reason for m in load_inputs("one", paths).missing}


@pytest.mark.parametrize("columns", [REQUIRED, (*REQUIRED, "group", "a column of one's own")])
def test_a_manifest_of_the_required_columns_is_read_as_every_stage_reads_it(fresh, columns):
    params, paths = fresh
    whole = load_inputs("one", paths).manifest
    whole.assign(**{"a column of one's own": "x"})[list(columns)].to_csv(
        paths.manifest("one"), index=False
    )
    found = load_inputs("one", paths)
    assert "manifest" not in missing(paths)
    assert set(OPTIONAL) <= set(found.manifest.columns)
    assert found.units(whole["image_id"]) == list(whole["image_id"])
    assert "36 images, 3 classes" in build_report(params, paths).read_text(encoding="utf-8")


def test_what_is_wrong_with_a_manifest_is_said_with_its_line_and_the_rest_is_shown(fresh):
    params, paths = fresh
    table = pd.read_csv(paths.manifest("one"), dtype=str, keep_default_na=False)
    table.loc[3, "sha256"] = "short"
    table.to_csv(paths.manifest("one"), index=False)
    reason = missing(paths)["manifest"]
    assert reason.startswith("1 problem: line 5, sha256: ") and str(paths.root) not in reason
    assert "Accuracy and the number of labels" in build_report(params, paths).read_text("utf-8")


def test_images_that_are_gone_do_not_stop_the_report(fresh):
    params, paths = fresh
    for file in paths.data("one").rglob("*.png"):
        file.unlink()
    assert "manifest" not in missing(paths)
    assert "cannot be shown" in build_report(params, paths).read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b"\xff", None])
def test_a_damaged_record_is_named_with_its_command_and_the_others_are_read(fresh, stage, damage):
    _, paths = fresh
    before = load_inputs("one", paths).records
    path = paths.record("one", stage)
    if damage is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(damage)
    found = load_inputs("one", paths)
    (named,) = (m for m in found.missing if m.what == f"record of {stage}")
    assert named.path == f"cache/one/records/{stage}.json"
    assert named.command == f"pipeline {stage.replace('_', '-')} --dataset one"
    assert found.records == {k: v for k, v in before.items() if k != stage}


METRICS = {"metrics", "per_class", "comparisons"}


def train_again(paths, features: dict | None = None) -> None:
    """Leave what another `train` leaves: other runs, and predictions that say they are theirs."""
    runs = pd.read_parquet(paths.runs("one"))
    runs["digest"] += " again"
    runs.to_parquet(paths.runs("one"))
    predicted = pd.read_parquet(paths.predictions("one"))
    write_stamped(predicted, pairing(runs, features or {}), paths.predictions("one"))


def test_metrics_of_an_older_training_are_named_and_not_drawn_beside_its_predictions(fresh):
    params, paths = fresh
    assert not (METRICS | {"predictions"}) & set(missing(paths))
    train_again(paths)
    assert METRICS & set(missing(paths)) == METRICS
    found = load_inputs("one", paths)
    assert found.metrics is None and found.per_class is None and found.comparisons is None
    assert found.predictions(fraction=1.0) is not None and found.mask_quality is not None
    html = build_report(params, paths).read_text(encoding="utf-8")
    line = r"metrics.parquet \(of other runs than those of the last train\): <code>(.*?)</code>"
    assert re.search(line, html)[1] == "pipeline evaluate --dataset one"
    assert "Accuracy and the number of labels" not in html and "Each class" not in html
    restamp(paths, "one")
    assert not METRICS & set(missing(paths))


def test_without_runs_predictions_and_metrics_are_still_told_apart(fresh):
    _, paths = fresh
    train_again(paths)
    paths.runs("one").unlink()
    assert missing(paths)["metrics"] == "of other predictions than those there"


@pytest.mark.parametrize("made", ["of other runs", "unsaid", "damaged"])
def test_predictions_that_are_not_of_the_runs_are_named_and_not_drawn(fresh, made):
    params, paths = fresh
    table, runs = (pd.read_parquet(p) for p in (paths.predictions("one"), paths.runs("one")))
    if made == "damaged":
        paths.predictions("one").write_bytes(b"not parquet")
    else:
        metadata = {} if made == "unsaid" else pairing(runs.iloc[1:], {})
        write_stamped(table, metadata, paths.predictions("one"))
    (named,) = (m for m in load_inputs("one", paths).missing if m.what == "predictions")
    assert named.command == "pipeline train --dataset one"
    assert load_inputs("one", paths).predictions(fraction=1.0) is None
    html = build_report(params, paths).read_text(encoding="utf-8")
    assert "Accuracy and the number of labels" in html
    assert "Where the mask helped" not in html and "</span> Calibration" not in html


def test_what_was_made_on_other_features_is_named_and_not_drawn(fresh):
    _, paths = fresh
    table = load_inputs("one", paths).manifest
    views = {"whole": pd.DataFrame(0.0, table.index, range(4)).to_numpy("float32")}
    text = pd.DataFrame(0.0, range(3), range(4)).to_numpy("float32")
    write_features(paths, "one", table, views, text, ["alpha", "beta", "gamma"])
    why = "of other features than encode has made since"
    assert dict.fromkeys([*METRICS, "predictions"], why).items() <= missing(paths).items()
    train_again(paths, load_inputs("one", paths).features.identity)
    assert METRICS & set(missing(paths)) == METRICS and "predictions" not in missing(paths)


@pytest.mark.parametrize("part", ["per_class", "comparisons", "mask_quality"])
def test_a_table_of_another_evaluation_than_the_metrics_is_named_and_not_drawn(fresh, part):
    _, paths = fresh
    if part == "mask_quality":
        table = pd.read_parquet(paths.mask_quality("one"))
        table.iloc[1:].to_parquet(paths.mask_quality("one"))
    else:
        path = paths.plots("one") / f"{part}.csv"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert missing(paths)[part] == "of another evaluation than metrics.parquet"
    assert getattr(load_inputs("one", paths), part) is None
    restamp(paths, "one")
    assert part not in missing(paths)


def test_a_table_that_no_metrics_speak_for_is_not_drawn(fresh):
    _, paths = fresh
    paths.metrics_table("one").unlink()
    assert missing(paths)["per_class"].startswith("without metrics.parquet")


def relabel(paths, how: str) -> None:
    """Change the manifest of "one" after its training: a test image renamed in class, or gone."""
    table = pd.read_csv(paths.manifest("one"), dtype=str, keep_default_na=False)
    first = table.index[table["split"] == "test"][0]
    if how == "gone":
        table = table.drop(index=first)
    else:
        table.loc[first, "label"] = "beta"
    table.to_csv(paths.manifest("one"), index=False)


@pytest.mark.parametrize("how", ["of another class", "gone"])
def test_figures_of_other_labels_or_of_images_that_are_gone_are_named_and_not_drawn(fresh, how):
    params, paths = fresh
    relabel(paths, how)
    reasons = missing(paths)
    for part in (*METRICS, "predictions", "mask_quality", "prompt_quality"):
        assert reasons[part].startswith("1 image(s) have another label in the manifest, or are")
    found = load_inputs("one", paths)
    assert found.tested is None and found.predictions(fraction=1.0) is None
    html = build_report(params, paths).read_text(encoding="utf-8")
    for command in ("train", "evaluate", "prompt-quality"):
        assert f"<code>pipeline {command} --dataset one</code>" in html
    assert "Accuracy and the number of labels" not in html and "Each class" not in html


def test_a_new_image_leaves_the_figures_as_they_are(fresh):
    _, paths = fresh
    table = pd.read_csv(paths.manifest("one"), dtype=str, keep_default_na=False)
    new = table.iloc[:1].assign(image_id="new.png", path="new.png")
    pd.concat([table, new]).to_csv(paths.manifest("one"), index=False)
    assert not (METRICS | {"predictions"}) & set(missing(paths))


@pytest.mark.parametrize("stage", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("status", "said"), [("error", "stopped with an error"), ("interrupted", "was interrupted")]
)
def test_a_last_run_that_did_not_end_is_warned_of_above_the_figures(fresh, stage, status, said):
    params, paths = fresh
    record = json.loads(paths.record("one", stage).read_text())
    where = paths.root.resolve() / "cache/one/predictions.parquet"
    record |= {"status": status, "error": f"{where}: 7 are gone" if status == "error" else ""}
    paths.record("one", stage).write_text(json.dumps(record))
    pages = [build_report(params, paths), *write_results(params, paths)]
    for page in (p for p in pages if p.name in ("index.html", "one.md")):
        text = page.read_text(encoding="utf-8")
        assert f"The last run of {stage} {said}" in text.split("In words")[0]
        assert str(paths.root.resolve()) not in text
        assert text.count("7 are gone") >= (status == "error")
