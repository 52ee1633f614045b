"""Missing, partial, mixed and unfinished inputs: named with the command, never drawn."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from pipeline.io import read_text_csv
from pipeline.learners.runs import run_inputs
from pipeline.report import words
from pipeline.report.build import build_report, warnings
from pipeline.report.data import command, load_dataset
from pipeline.report.pictures import Album
from tests.report.fabricated import FAILED, write_stamped

FILES = {
    "audit.parquet": "pipeline audit --dataset one",
    "audit_pairs.parquet": "pipeline audit --dataset one",
    "masks.zarr": "pipeline segment --dataset one",
    "runs/linear-probe": "pipeline train --dataset one --learner linear-probe",
    "metrics.parquet": "pipeline evaluate --dataset one",
    "mask_quality.parquet": "pipeline evaluate --dataset one",
    "plots/comparisons.csv": "pipeline evaluate --dataset one",
    "plots/per_class.csv": "pipeline evaluate --dataset one",
    "plots/test_sets.csv": "pipeline evaluate --dataset one",
    "prompt_quality.parquet": "pipeline prompt-quality --dataset one",
}


def missing(params, paths) -> dict[str, str]:
    """{file: command} of what the report of "one" cannot show."""
    return {
        m.path.removeprefix("cache/one/"): m.command
        for m in load_dataset("one", params, paths).missing
        if not m.path.endswith("features.zarr")  # the fabricated project has none
    }


def test_a_whole_project_lacks_nothing(project):
    assert missing(*project) == {}


@pytest.mark.promise("A missing file is named with the command that makes it.")
@pytest.mark.parametrize("file", FILES)
def test_a_missing_or_damaged_file_is_named(fresh, file):
    params, paths = fresh
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
@pytest.mark.parametrize(
    ("what", "command_of"),
    [
        ("runs", "train --dataset one --learner linear-probe"),
        ("predictions", "evaluate"),
        ("audit", "evaluate"),
        ("table", "evaluate"),
        ("metrics", "evaluate"),
        ("labels", "evaluate"),
    ],
)
def test_files_of_different_runs_are_not_shown_together(fresh, what, command_of):
    params, paths = fresh
    run = paths.run_table("one", "linear-probe")
    if what == "runs":  # runs replaced, predictions not
        write_stamped(pd.read_parquet(run).assign(val_score=0.1), run, run_inputs(paths, "one"))
    elif what == "predictions":  # a whole training, not evaluated
        write_stamped(pd.read_parquet(run).assign(val_score=0.1), run, run_inputs(paths, "one"))
        path = paths.predictions("one", "linear-probe")
        write_stamped(pd.read_parquet(path), path, run_inputs(paths, "one") | {"runs": run})
    elif what == "audit":
        table = pd.read_parquet(paths.audit("one"))
        table.assign(near_group="x").to_parquet(paths.audit("one"))
    elif what == "table":  # a table of another evaluation
        path = paths.plots("one") / "comparisons.csv"
        path.write_text(path.read_text().replace("0.", "0.1", 1))
    elif what == "metrics":  # metrics of no known inputs
        path = paths.metrics_table("one")
        pd.read_parquet(path).to_parquet(path)
    elif what == "labels":
        path = paths.manifest("one")
        text = path.read_text().replace("000.png,0,beta,", "000.png,0,gamma,", 1)
        assert text != path.read_text() and read_text_csv(path)
        path.write_text(text)
    found = load_dataset("one", params, paths)
    commands = {m.command for m in found.missing}
    again = f"pipeline {command_of}" if "--" in command_of else command(command_of, "one")
    assert again in commands
    if what == "table":
        assert found.comparisons is None and found.metrics is not None
    elif what == "runs":
        assert "linear-probe" not in set(found.predictions["learner"])
    else:
        assert found.metrics is None and found.per_class is None
    if what == "labels":
        assert found.predictions is None and found.prompt_quality is None
        assert found.mask_quality is None


@pytest.mark.promise("A last train or evaluate that did not finish is warned of above the figures.")
@pytest.mark.parametrize(
    ("stage", "status"),
    [("train-linear-probe", "error"), ("evaluate", "interrupted"), ("evaluate", "running")],
)
def test_an_unfinished_run_is_warned_of(fresh, status, stage):
    params, paths = fresh
    path = paths.record("one", stage)
    record = json.loads(path.read_text()) | {"status": status, "error": f"no {paths.root}/x"}
    path.write_text(json.dumps(record))
    data = load_dataset("one", params, paths)
    (said,) = warnings(data)
    assert words.STATUS[status] in said and command(stage.split("-")[0], "one") in said
    assert str(paths.root) not in said


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
    assert picture.uri and picture.note.startswith("mask lost") and image_id in album.lost
    assert album.picture(FAILED).note == "segmentation failed" and FAILED not in album.lost
    whole, outlined, masked = album.example(image_id)
    assert masked.uri == "" and masked.note.startswith("mask lost")
    assert outlined.note and not whole.note
    page = build_report(params, paths).read_text("utf-8")
    assert command("segment", "one") in page and "mask lost" in page
    assert "Masks that the store lists but cannot give" in page
