"""Missing, partial, mixed and unfinished inputs: named with the command, never drawn."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from pipeline.learners.runs import run_inputs, write_table
from pipeline.provenance import stamp
from pipeline.report import words
from pipeline.report.build import build_report, warnings
from pipeline.report.data import command, load_dataset
from pipeline.report.pictures import Album
from tests.report.fabricated import FAILED

FILES = {
    "audit.parquet": "pipeline audit --dataset one",
    "audit_pairs.parquet": "pipeline audit --dataset one",
    "masks.zarr": "pipeline segment --dataset one",
    "runs/linear-probe": "pipeline train --dataset one --learner linear-probe",
    "metrics.parquet": "pipeline evaluate --dataset one",
    "mask_quality.parquet": "pipeline evaluate --dataset one",
    "plots/comparisons.csv": "pipeline evaluate --dataset one",
    "prompt_quality.parquet": "pipeline prompt-quality --dataset one",
}


@pytest.mark.promise("A missing file is named with the command that makes it.")
@pytest.mark.parametrize("file", FILES)
def test_a_missing_or_damaged_file_is_named(fresh, file):
    params, paths = fresh
    lacking = [m.path for m in load_dataset("one", params, paths).missing]
    assert lacking == ["cache/one/features.zarr"]  # fabricated without
    path = paths.cache("one") / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for damage in (b"", b"\x00 not what it was"):
        if damage:
            path.write_bytes(damage)
        found = load_dataset("one", params, paths).missing
        assert FILES[file] in {m.command for m in found}
        assert str(paths.root) not in " ".join(m.reason for m in found)


def test_a_page_is_made_of_damaged_tables_and_images_and_datasets_that_are_away(fresh):
    params, paths = fresh
    shutil.rmtree(paths.data("one"))
    for name in ("metrics", "audit_pairs", "prompt_quality"):
        (paths.cache("one") / f"{name}.parquet").write_bytes(b"not what it was")
    page = build_report(params, paths, ["one", "not yet"]).read_text("utf-8")
    assert page.count('class="nopicture"') > 8 and "data:image" not in page
    assert FILES["metrics.parquet"] in page and str(paths.root) not in page
    assert "<code>pipeline data add not yet --from FOLDER</code>" in page


@pytest.mark.promise(
    "Files of different runs are never shown together; what does not belong is named with the "
    "command that makes it again."
)
@pytest.mark.parametrize("what", ["runs", "training", "audit", "metrics", "table", "labels"])
def test_files_of_different_runs_are_not_shown_together(fresh, what):
    params, paths = fresh
    run, predictions = (f("one", "linear-probe") for f in (paths.run_table, paths.predictions))
    if what in ("runs", "training"):  # a whole training, or its first table only
        inputs = run_inputs(paths, "one")
        write_table(run, pd.read_parquet(run).assign(val_score=0.1), stamp(**inputs), "zstd")
        if what == "training":
            inputs = stamp(**inputs, runs=run)
            write_table(predictions, pd.read_parquet(predictions), inputs, "zstd")
    elif what in ("audit", "metrics"):  # another audit, metrics of no known inputs
        path = {"audit": paths.audit, "metrics": paths.metrics_table}[what]("one")
        pd.read_parquet(path).assign(other=1).to_parquet(path)
    else:
        path, old = paths.plots("one") / "comparisons.csv", "0."
        if what == "labels":
            path, old = paths.manifest("one"), "0,beta,"
        path.write_text(path.read_text().replace(old, "0,gamma,", 1))
    found = load_dataset("one", params, paths)
    again = FILES["runs/linear-probe"] if what == "runs" else command("evaluate", "one")
    assert again in {m.command for m in found.missing}
    if what == "table":
        assert found.comparisons is None and found.metrics is not None
    elif what == "runs":
        assert "linear-probe" not in set(found.predictions["learner"])
    else:
        assert found.metrics is None and found.per_class is None
    if what == "labels":
        parts = found.predictions, found.prompt_quality, found.mask_quality
        assert all(part is None for part in parts)


@pytest.mark.promise("A last train or evaluate that did not finish is warned of above the figures.")
@pytest.mark.parametrize("stage", ["train-linear-probe", "evaluate"])
def test_an_unfinished_run_is_warned_of(fresh, stage):
    params, paths = fresh
    status = "running" if stage == "evaluate" else "error"
    path = paths.record("one", stage)
    record = json.loads(path.read_text()) | {"status": status, "error": f"no {paths.root}/x"}
    path.write_text(json.dumps(record))
    data = load_dataset("one", params, paths)
    (said,) = warnings(data)
    assert words.STATUS[status] in said and command(stage.split("-")[0], "one") in said
    assert str(paths.root) not in said


@pytest.mark.promise("Bytes that change under the same name are noticed by all who read them.")
def test_an_image_of_other_bytes_than_were_masked_is_not_drawn(fresh):
    params, paths = fresh
    file = paths.data("one") / "test/beta/000.png"
    file.write_bytes(file.read_bytes() + b"x")
    assert (
        "bytes changed"
        in Album(load_dataset("one", params, paths), 32).picture("test/beta/000.png").note
    )


@pytest.mark.promise("A mask that the store lists but cannot give is named, never drawn as empty.")
def test_a_lost_mask_is_named_and_never_drawn_as_empty(fresh):
    params, paths = fresh
    for shard in sorted(paths.masks("one").rglob("*")):
        if shard.is_file() and "/mask/c/" in shard.as_posix():
            shard.unlink()
    data = load_dataset("one", params, paths)
    album = Album(data, 32)
    image_id = "test/beta/000.png"
    picture = album.picture(image_id)
    assert not picture.uri and picture.note.startswith("mask lost") and image_id in album.lost
    assert album.picture(image_id, outlines=False).uri
    assert album.picture(FAILED).note == "segmentation failed" and FAILED not in album.lost
    whole, outlined, masked = album.example(image_id)
    assert masked.uri == "" and masked.note.startswith("mask lost")
    assert outlined.note and not whole.note
    page = build_report(params, paths).read_text("utf-8")
    assert command("segment", "one") in page and "mask lost" in page
    assert "Masks that the store lists but cannot give" in page
