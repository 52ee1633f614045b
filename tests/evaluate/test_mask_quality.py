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
from pipeline.evaluate.predictions import by_image
from pipeline.manifest import read_manifest
from pipeline.segment.quality import center_ellipse
from pipeline.store import MaskRow, MaskStoreWriter
from pipeline.store.items import WorkItem
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene

from .test_evaluate import CHAIN

SHIFTS = {"exact": (0, 0), "near": (2, -3), "far": (14, 20)}
SIZES = {"exact": (50, 70), "near": (64, 48), "far": (90, 120)}
REASONS = {"failed": "truncated file", "missing": "not segmented"}
LACKING = (
    "An image with ground truth but without a mask is a row with its reason, counted beside every "
    "mean Dice."
)


def truth(name: str) -> np.ndarray:
    return scene(len(name), *SIZES[name])[1]


def found(name: str) -> np.ndarray:
    """The true region, shifted and frayed, as a model might predict it."""
    moved = np.roll(truth(name), SHIFTS[name], axis=(0, 1))
    frayed = np.random.default_rng(len(name)).random(moved.shape) > 0.05
    return moved if name == "exact" else moved & frayed


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three images with masks; one each without ground truth, with an empty and a damaged one; the
    same without a mask, since segmentation failed or was not run."""
    made = Project(tmp_path_factory.mktemp("quality"))
    for name in SIZES:
        made.add(f"{name}.png", *scene(len(name), *SIZES[name]))
    plain, region = scene(9, 40, 60)
    made.add("empty mask.png", plain, region)
    for start in ("", "failed, ", "missing, "):
        made.add(f"{start}true.png", plain, region)
        made.add(f"{start}no truth.png", plain)
        made.add(f"{start}black truth.png", plain, np.zeros_like(region))
        made.add(f"{start}damaged truth.png", plain, region)
        made.file(f"masks/{start}damaged truth.png").write_bytes(b"no image")
    masks = {f"{name}.png": found(name) for name in SIZES}
    masks["empty mask.png"] = np.zeros_like(region)
    with MaskStoreWriter(made.paths.masks(DATASET), {"prompt": {"strategy": "salient"}}) as writer:
        writer.sync_manifest(read_manifest(made.paths.manifest(DATASET)))
        rows = [row for row in made.rows if not row["image_id"].startswith("missing")]
        items = [WorkItem(r["image_id"], r["sha256"], made.file(r["path"]), 0, r) for r in rows]
        writer.plan(items)
        for item in items:
            if item.image_id.startswith("failed"):
                writer.write_failed(item, "truncated file")
                continue
            mask = masks.get(item.image_id, region)
            status = "ok" if mask.any() else "empty"
            writer.write([item], [MaskRow(item.image_id, mask, status=status)])
        writer.commit()
    return made


@pytest.fixture(scope="module")
def table(project):
    manifest = read_manifest(project.paths.manifest(DATASET))
    found = mask_quality(DATASET, manifest, project.paths, jobs=2)
    assert list(found.columns) == list(COLUMNS)
    return found.set_index(["image_id", "strategy"])


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
    moved = random_mask(stored, f"{sha256}#0")
    mask = {"salient": stored, "random": moved, "ellipse": center_ellipse(stored)}[strategy]
    row, right = table.loc[(f"{name}.png", strategy)], truth(name)
    a, b = torch.tensor(mask), torch.tensor(right)
    assert row["dice"] == pytest.approx(float(binary_f1_score(a, b)), abs=1e-6)
    assert row["iou"] == pytest.approx(float(binary_jaccard_index(a, b)), abs=1e-6)
    there, back = distances(mask, right), distances(right, mask)
    assert row["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert row["pred_area_fraction"] == pytest.approx(mask.mean())
    assert row["gt_area_fraction"] == pytest.approx(right.mean())


@pytest.mark.promise(LACKING)
def test_what_cannot_be_judged_is_a_row_with_its_reason_or_left_out(project, table):
    judged = {f"{n}.png" for n in (*SIZES, "empty mask", "true")}
    assert set(table["dice"].dropna().index.get_level_values(0)) == judged
    lacking = {f"{start}, {end}.png" for start in REASONS for end in ("true", "damaged truth")}
    assert set(table.index.get_level_values(0)) == judged | lacking | {"damaged truth.png"}
    empty = table.loc[("empty mask.png", "salient")]
    assert empty["dice"] == 0 and np.isnan(empty["hd95"]) and "empty" in empty["note"]
    for start in ("", "failed, ", "missing, "):
        damaged = table.loc[f"{start}damaged truth.png"]
        assert len(damaged) == 1 and np.isnan(damaged["dice"].item())
        assert damaged["note"].item().startswith("ground truth not readable: ")
    for start, reason in REASONS.items():
        row = table.loc[f"{start}, true.png"]
        assert list(row.index) == ["salient"] and row["note"].item() == f"no mask: {reason}"
        assert row[["dice", "iou", "hd95", "pred_area_fraction"]].isna().all(axis=None)
        assert row["gt_area_fraction"].item() == pytest.approx(scene(9, 40, 60)[1].mean())
    nothing = mask_quality("other", read_manifest(project.paths.manifest(DATASET)), project.paths)
    assert nothing.empty and list(nothing.columns) == list(COLUMNS)


@pytest.mark.promise(CHAIN)
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


def test_an_image_has_its_share_of_right_seeds_and_its_most_frequent_class():
    # By image, what each seed says with a probability of 0.8.
    rows = [
        (i, "a", said) for i, seeds in (("x", "aba"), ("y", "cbb"), ("z", "cba")) for said in seeds
    ]
    table = pd.DataFrame(rows, columns=["image_id", "y_true", "y_pred"])
    proba = {f"p:{c}": np.where(table["y_pred"] == c, 0.8, 0.1) for c in "abc"}
    cases = by_image(table.assign(**proba))
    assert cases["right"].to_dict() == pytest.approx({"x": 2 / 3, "y": 0, "z": 1 / 3})
    assert cases["y_pred"].to_dict() == {"x": "a", "y": "b", "z": "a"}
    assert cases.loc["x", "p_true"] == pytest.approx((0.8 + 0.1 + 0.8) / 3)
    assert set(cases["seeds"]) == {3} and set(cases["y_true"]) == {"a"}
