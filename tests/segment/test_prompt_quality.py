"""The prompt benchmark: true figures, kept rows, and no way from ground truth into `segment`."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from pipeline import open_masks
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, StageFailed
from pipeline.segment.prompt_quality import (
    best_line,
    measure_prompts,
    reference_prompts,
    truth_sample,
)
from pipeline.segment.segment import segment_dataset
from tests.project import DATASET
from tests.segment.small_sam2 import scene

NAMES = ["salient", "salient-refine", "auto", "center-box", "box", "points", "box-ellipse"]


@pytest.fixture
def project(ellipses):
    return ellipses(6)


@pytest.fixture
def run(project, sam2):
    def measure(predictor=sam2, **changed):
        options = {k: changed.pop(k) for k in ("force", "batch_size") if k in changed}
        changed = {"segment__grid": 3, "prompt_quality__images": 0} | changed
        params = project.params(**changed)
        options = RunOptions(workers=1, **options)
        return measure_prompts(DATASET, params, project.paths, options, predictor=predictor)

    return measure


def table(project) -> pd.DataFrame:
    return pd.read_parquet(project.paths.prompt_quality(DATASET))


@pytest.mark.parametrize("prompt", ("salient-refine", "auto", "center-box", "box", "points"))
def test_figures_are_those_of_the_masks_that_segment_makes(project, run, sam2, prompt):
    run(batch_size=4)
    rows = table(project)
    assert list(rows["strategy"]) == NAMES * 6
    assert set(rows[rows["from_truth"]]["strategy"]) == {"box", "points", "box-ellipse"}
    for row in project.rows:  # the references, given to segment as a user would give them
        truth = scene(int(row["image_id"][0]), row["height"], row["width"])[1]
        row |= reference_prompts(truth, 0.1, f"0\n{row['sha256']}#0")[1]
        x, y, _ = row["points"].split(",")
        assert truth[int(float(y)), int(float(x))]
    project.write()
    params = project.params(segment__prompt=prompt, segment__grid=3)
    segment_dataset(DATASET, params, project.paths, RunOptions(workers=1), predictor=sam2)
    store = open_masks(project.paths.masks(DATASET))
    rows = rows[rows["strategy"] == prompt].set_index("image_id")
    for i in range(6):
        mask = torch.tensor(store[f"{i}.png"])
        truth = torch.tensor(scene(i, 40 + 5 * i, 70 - 6 * i)[1])
        got = rows.loc[f"{i}.png"]
        assert got["dice"] == pytest.approx(float(binary_f1_score(mask, truth)), abs=2e-3)
        assert got["iou"] == pytest.approx(float(binary_jaccard_index(mask, truth)), abs=2e-3)
        assert got["pred_area_fraction"] == pytest.approx(float(mask.float().mean()), abs=2e-3)
        assert got["gt_area_fraction"] == pytest.approx(float(truth.float().mean()))


def test_a_larger_sample_adds_to_a_smaller_and_a_relabelled_image_keeps_its_figures(project, run):
    assert run(prompt_quality__images=2).done == 2
    record = run()
    assert (record.done, record.skipped) == (4, 2)
    before = project.paths.prompt_quality(DATASET).read_bytes()
    run(force=True)
    assert project.paths.prompt_quality(DATASET).read_bytes() == before
    project.row("0.png")["label"] = "cat"
    project.write()
    assert run().done == 0
    rows = table(project)
    assert set(rows[rows["image_id"] == "0.png"]["label"]) == {"cat"}
    image, truth = scene(1, 45, 64)
    project.rows[1] = project.make_row("1.png", image, np.roll(truth, 9, axis=1))
    project.write()
    assert run().done == 1 and run(prompt_quality__box_jitter=0.3).done == 6


@pytest.mark.parametrize("name", ("masks/2.png", "2.png"))
def test_a_file_that_cannot_be_read_fails_and_is_tried_again(project, run, name):
    file = project.file(name)
    good = file.read_bytes()
    file.write_bytes(good[:40])
    with pytest.raises(StageFailed, match="1 of 6 images failed"):
        run()
    rows = table(project)
    assert len(rows) == 5 * len(NAMES) and "2.png" not in set(rows["image_id"])
    record = run(prompt_quality__max_failed=0.2)
    assert (record.status, record.done, record.skipped) == ("ok", 0, 5)
    assert set(record.failed) == {"2.png"}
    file.write_bytes(good)
    assert run().done == 1


def test_sets_without_ground_truth_and_phantoms(project, run):
    for row in project.rows:
        row["synthetic"] = "1"
    project.write()
    assert run(prompt_quality__phantoms=3).done == 3
    for row in project.rows:
        row["mask_path"] = ""
    project.write()
    assert run(predictor=None).total == 0
    assert table(project).empty and best_line(DATASET, project.params(), project.paths) == ""


@pytest.mark.parametrize("name", ["boxx", "manifest"])
def test_a_strategy_that_is_unknown_or_the_truth_itself_is_refused(run, name):
    with pytest.raises(ConfigError, match=f"prompt_quality.strategies: {name}"):
        run(prompt_quality__strategies=[name])


@pytest.mark.promise("Boxes and clicks made from the ground truth never reach `segment`.")
def test_references_never_reach_segment(project, run, sam2):
    manifest = project.paths.manifest(DATASET).read_bytes()
    run()
    assert project.paths.manifest(DATASET).read_bytes() == manifest
    assert not project.paths.masks(DATASET).exists()
    with pytest.raises(StageFailed, match="no box in the manifest"):
        params = project.params(segment__prompt="box")
        segment_dataset(DATASET, params, project.paths, predictor=sam2)


def test_the_sample_has_ground_truth_the_test_part_first_and_depends_on_bytes_and_seed_alone():
    counts = {("train", "a"): 60, ("train", "b"): 30, ("train", "c"): 4, ("test", "a"): 9}
    rows = [{"split": s, "label": label} for (s, label), n in counts.items() for _ in range(n)]
    table = pd.DataFrame(rows).assign(frame=0)
    table["image_id"] = table["sha256"] = [f"{i:064x}" for i in range(len(table))]
    table["mask_path"] = [f"m{i}.png" if i % 5 else "" for i in range(len(table))]
    table["mask_area"] = [str(i % 7) for i in range(len(table))]
    everything = truth_sample(table, 0, 0)
    assert set(everything.index) == {i for i in range(len(table)) if i % 5 and i % 7}
    assert truth_sample(table, 1000, 0).equals(everything)
    in_test = int((everything["split"] == "test").sum())
    assert set(truth_sample(table, in_test, 0)["split"]) == {"test"}
    drawn = truth_sample(table, in_test + 9, 0)
    assert drawn.groupby(["split", "label"]).size()["train"].to_dict() == {"a": 5, "b": 3, "c": 1}
    other = table.sample(frac=1, random_state=1).assign(image_id=range(len(table)))
    assert set(truth_sample(other, in_test + 9, 0)["sha256"]) == set(drawn["sha256"])
    assert set(truth_sample(table, in_test + 9, 1)["sha256"]) != set(drawn["sha256"])
