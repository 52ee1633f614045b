"""Overlap of regions with known answers, stored masks judged against ground truth, and predictions
by image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from pipeline import open_masks
from pipeline.config import EvaluateParams
from pipeline.encode.views import random_mask
from pipeline.errors import StoreError
from pipeline.evaluate.mask_quality import COLUMNS, mask_quality, summarise_masks
from pipeline.evaluate.predictions import by_image, flips
from pipeline.manifest import read_manifest
from pipeline.segment.quality import center_ellipse, hd95, overlap
from pipeline.store import MaskRow, MaskStoreWriter
from pipeline.store.items import WorkItem
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene

SHIFTS = {"exact": (0, 0), "near": (2, -3), "far": (14, 20), "wide": (1, 5)}
SIZES = {"exact": (50, 70), "near": (64, 48), "far": (90, 120), "wide": (41, 150)}
REASONS = {"failed": "truncated file", "missing": "not segmented"}
LACKING = (
    "An image with ground truth but without a mask is a row with its reason, counted beside every "
    "mean Dice."
)


def square(top: int, left: int, side: int, shape=(40, 60)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_regions_with_known_answers():
    a, nothing = square(5, 5, 12), np.zeros((40, 60), dtype=bool)
    assert overlap(a, a) == (1.0, 1.0) and hd95(a, a) == 0.0
    assert overlap(a, square(20, 30, 10)) == (0.0, 0.0)
    assert hd95(a, square(5, 12, 12)) == pytest.approx(7)
    assert np.isnan(hd95(a, nothing)) and overlap(nothing, a) == (0.0, 0.0)
    assert np.isnan(overlap(nothing, nothing)).all()


@pytest.mark.parametrize("side", (6, 15, 30))
def test_the_ellipse_is_centred_and_has_the_masks_area(side):
    mask = square(0, 0, side)
    ellipse = center_ellipse(mask)
    assert ellipse.sum() == pytest.approx(mask.sum(), rel=0.12)
    rows, columns = np.nonzero(ellipse)
    assert rows.mean() == pytest.approx(19.5) and columns.mean() == pytest.approx(29.5)


def truth(name: str) -> np.ndarray:
    return scene(len(name), *SIZES[name])[1]


def found(name: str) -> np.ndarray:
    """The true region, shifted and frayed, as a model might predict it."""
    moved = np.roll(truth(name), SHIFTS[name], axis=(0, 1))
    if name == "exact":
        return moved
    rng = np.random.default_rng(len(name))
    return moved & (rng.random(moved.shape) > 0.05)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Four images with masks; one each without ground truth, with an empty and a damaged one; the
    same without a mask, since segmentation failed or was not run."""
    made = Project(tmp_path_factory.mktemp("quality"))
    for name in SIZES:
        image, region = scene(len(name), *SIZES[name])
        made.add(f"{name}.png", image, region)
    plain, region = scene(9, 40, 60)
    made.add("no truth.png", plain)
    made.add("black truth.png", plain, np.zeros_like(region))
    made.add("empty mask.png", plain, region)
    made.add("damaged truth.png", plain, region)
    for start in ("failed", "missing"):
        made.add(f"{start}.png", plain, region)
        made.add(f"{start}, no truth.png", plain)
        made.add(f"{start}, black truth.png", plain, np.zeros_like(region))
        made.add(f"{start}, damaged truth.png", plain, region)
    for name in ("damaged truth", "failed, damaged truth", "missing, damaged truth"):
        made.file(f"masks/{name}.png").write_bytes(b"no image")
    masks = {f"{name}.png": found(name) for name in SIZES}
    masks |= {n: region for n in ("no truth.png", "black truth.png", "damaged truth.png")}
    masks["empty mask.png"] = np.zeros_like(region)
    identity = {"prompt": {"strategy": "salient", "version": 1}}
    with MaskStoreWriter(made.paths.masks(DATASET), identity) as writer:
        manifest = read_manifest(made.paths.manifest(DATASET))
        writer.sync_manifest(manifest)
        items = [
            WorkItem(r["image_id"], r["sha256"], made.file(r["path"]), 0, r)
            for r in made.rows
            if not r["image_id"].startswith("missing")
        ]
        writer.plan(items)
        for item in items:
            if item.image_id.startswith("failed"):
                writer.write_failed(item, "truncated file")
                continue
            mask = masks[item.image_id]
            status = "ok" if mask.any() else "empty"
            writer.write([item], [MaskRow(item.image_id, mask, status=status)])
        writer.commit()
    return made


def judged(project, jobs: int = 1):
    manifest = read_manifest(project.paths.manifest(DATASET))
    return mask_quality(DATASET, manifest, project.paths, jobs=jobs)


@pytest.fixture(scope="module")
def table(project):
    return judged(project).set_index(["image_id", "strategy"])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From each pixel of a's inner border to b's nearest, by an exact distance transform."""
    border_a, border_b = (m & ~binary_erosion(m) for m in (a, b))
    return distance_transform_edt(~border_b)[border_a]


@pytest.mark.promise("Dice, IoU and HD95 of stored masks equal those of independent libraries.")
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("strategy", ("salient", "random", "ellipse"))
def test_figures_of_stored_masks_equal_torchmetrics_and_a_distance_transform(
    project, table, name, strategy
):
    stored = open_masks(project.paths.masks(DATASET))[f"{name}.png"]
    assert np.array_equal(stored, found(name))
    sha256 = project.row(f"{name}.png")["sha256"]
    mask = {
        "salient": stored,
        "random": random_mask(stored, f"{sha256}#0"),
        "ellipse": center_ellipse(stored),
    }[strategy]
    row, right = table.loc[(f"{name}.png", strategy)], truth(name)
    a, b = torch.tensor(mask), torch.tensor(right)
    assert row["dice"] == pytest.approx(float(binary_f1_score(a, b)), abs=1e-6)
    assert row["iou"] == pytest.approx(float(binary_jaccard_index(a, b)), abs=1e-6)
    there, back = distances(mask, right), distances(right, mask)
    assert row["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert row["pred_area_fraction"] == pytest.approx(mask.mean())
    assert row["gt_area_fraction"] == pytest.approx(right.mean())


@pytest.mark.promise(LACKING)
def test_what_cannot_be_judged_is_a_row_with_its_reason_or_left_out(table):
    judged = {f"{n}.png" for n in (*SIZES, "empty mask")}
    assert set(table["dice"].dropna().index.get_level_values(0)) == judged
    lacking = {f"{start}{end}.png" for start in REASONS for end in ("", ", damaged truth")}
    assert set(table.index.get_level_values(0)) == judged | lacking | {"damaged truth.png"}
    empty = table.loc[("empty mask.png", "salient")]
    assert empty["dice"] == 0 and np.isnan(empty["hd95"]) and "empty" in empty["note"]
    for start in ("", "failed, ", "missing, "):
        damaged = table.loc[f"{start}damaged truth.png"]
        assert len(damaged) == 1 and np.isnan(damaged["dice"].item())
        assert damaged["note"].item().startswith("ground truth not readable: ")
    for start, reason in REASONS.items():
        row = table.loc[f"{start}.png"]
        assert list(row.index) == ["salient"] and row["note"].item() == f"no mask: {reason}"
        assert row[["dice", "iou", "hd95", "pred_area_fraction"]].isna().all(axis=None)
        assert row["gt_area_fraction"].item() == pytest.approx(scene(9, 40, 60)[1].mean())


def test_the_table_depends_on_no_number_of_jobs_and_is_empty_without_a_store_or_masks(project):
    one, two = judged(project), judged(project, jobs=2)
    assert list(one.columns) == list(COLUMNS) and one.equals(two)
    manifest = read_manifest(project.paths.manifest(DATASET))
    for nothing in (
        mask_quality(DATASET, manifest.assign(mask_path=""), project.paths),
        mask_quality("other", manifest, project.paths),
    ):
        assert nothing.empty and nothing.dtypes.equals(one.dtypes)


@pytest.mark.promise(
    "Masks, features, fitted learners, predictions and the leak audit must have been made from "
    "each other and from today's images and labels; a stage refuses others and names the command."
)
def test_masks_of_other_image_bytes_are_refused(project):
    manifest = read_manifest(project.paths.manifest(DATASET))
    manifest.loc[manifest["image_id"] == "near.png", "sha256"] = "0" * 64
    with pytest.raises(StoreError, match=r"near\.png.*pipeline segment"):
        mask_quality(DATASET, manifest, project.paths)


@pytest.mark.promise(LACKING)
def test_the_summary_has_means_by_split_and_class_and_counts_images_without_a_value():
    quality = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "label": list("xxyyyy"),
            "split": ["test", "train", "test", "test", "train", "train"],
            "strategy": "salient",
            "dice": [0.9, 0.8, 0.05, np.nan, 0.6, 0.7],
            "iou": [0.8, 0.7, 0.03, np.nan, 0.5, 0.6],
            "hd95": [1.0, 2.0, 30.0, np.nan, 4.0, np.nan],
        }
    )
    table = summarise_masks(quality, {}, EvaluateParams(bootstrap=200))
    table = table.set_index(["split", "label"])
    assert list(table.index) == [("all", ""), ("test", ""), ("all", "x"), ("all", "y")]
    every = table.loc[("all", "")]
    assert (every["n_images"], every["n_missing"]) == (5, 1)
    assert every["dice"] == pytest.approx(0.61) and every["median_dice"] == pytest.approx(0.7)
    assert every["dice_lo"] < 0.61 < every["dice_hi"] and every["missed"] == pytest.approx(0.2)
    assert every["hd95"] == pytest.approx(37 / 4)
    assert table.loc[("test", ""), "dice"] == pytest.approx(0.475)
    assert table.loc[("all", "x"), "iou_lo"] == pytest.approx(0.7)
    wide = summarise_masks(quality, dict.fromkeys("abcdef", "one patient"), EvaluateParams())
    assert wide["dice_lo"].isna().all()


# -- predictions by image -------------------------------------------------------------------------


def predictions(said: dict[str, list[str]], true: str = "a") -> pd.DataFrame:
    """Rows of predictions.parquet: by image, what each seed says with a probability of 0.8."""
    rows = [
        {"image_id": i, "seed": seed, "y_true": true, "y_pred": label}
        | {f"p:{c}": 0.8 if c == label else 0.1 for c in "abc"}
        for i, labels in said.items()
        for seed, label in enumerate(labels)
    ]
    return pd.DataFrame(rows)


def test_an_image_has_its_share_of_right_seeds_and_its_most_frequent_class():
    cases = by_image(
        predictions({"x": ["a", "b", "a"], "y": ["c", "b", "b"], "z": ["c", "b", "a"]})
    )
    assert cases["right"].to_dict() == pytest.approx({"x": 2 / 3, "y": 0, "z": 1 / 3})
    assert cases["y_pred"].to_dict() == {"x": "a", "y": "b", "z": "a"}
    assert cases.loc["x", "p_true"] == pytest.approx((0.8 + 0.1 + 0.8) / 3)
    assert set(cases["seeds"]) == {3} and set(cases["y_true"]) == {"a"}


def test_flips_count_images_that_both_runs_have():
    before = by_image(predictions({"x": ["a", "a"], "y": ["b", "a"], "z": ["b", "b"]}))
    after = by_image(predictions({"x": ["b", "a"], "y": ["a", "a"], "w": ["a", "a"]}))
    both = flips(before, after)
    assert both["change"].to_dict() == {"x": -0.5, "y": 0.5}
    assert both["p_change"].to_dict() == pytest.approx({"x": -0.35, "y": 0.35})
    assert {"right_before", "y_pred_before", "y_pred_after"} <= set(both.columns)
