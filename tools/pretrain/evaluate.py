"""Mask quality: Dice by dataset and prompt, compared with the ellipse in the same box."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment.prompt_quality import CachedPredictor, deepest_point, ellipse, jitter_box
from pipeline.segment.strategies import strategy_class
from tools.pretrain.data import Item
from tools.pretrain.prompts import box_of

log = logging.getLogger(__name__)

JITTER, BATCH = 0.1, 8
PROMPTS: dict[str, SegmentParams] = {
    "salient": SegmentParams(prompt="salient"),
    "salient-refine": SegmentParams(prompt="salient-refine"),
    "center-box": SegmentParams(prompt="center-box"),
    "auto": SegmentParams(prompt="auto"),
    "click": SegmentParams(prompt="points"),
    "box": SegmentParams(prompt="box", box_as_mask=False, zoom=0),
    "box + mask": SegmentParams(prompt="box", box_as_mask=True, zoom=0),
    "box + zoom": SegmentParams(prompt="box", box_as_mask=False, zoom=2),
    "box + mask + zoom": SegmentParams(prompt="box", box_as_mask=True, zoom=2),
}
WITHOUT_A_PROMPT = ("salient", "salient-refine", "center-box", "auto")
"""Strategies without prompts: the candidates for the default."""
ELLIPSE = "ellipse in the box (no model)"


@dataclass(frozen=True)
class Case:
    """An image with its true mask.

    Args:
        set: dataset.
        image: uint8 (H, W, 3).
        mask: bool (H, W), not empty.
    """

    set: str
    image: np.ndarray
    mask: np.ndarray


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 |A and B| / (|A| + |B|) of two bool masks, 1.0 for two empty ones."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean (percentiles, images resampled)."""
    picks = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def measure(
    predictor: Sam2ImagePredictor,
    cases: Iterable[Case],
    prompts: Iterable[str] = tuple(PROMPTS),
) -> dict[str, dict[str, np.ndarray]]:
    """Return the Dice of every case by dataset and prompt, including the ellipse baseline.

    The box is that of the true mask, with each edge moved by up to 10 % of its side; the click
    is the innermost pixel of the true mask. Both are the same for every prompt and model.

    Args:
        predictor: the loaded model.
        cases: images with masks that are not empty.
        prompts: keys of `PROMPTS`.

    Returns:
        {set: {prompt: float (n,)}}, in the order of the cases.
    """
    found: dict[str, dict[str, list[float]]] = {}
    rng = np.random.default_rng(0)
    waiting: list[tuple[Case, dict[str, str]]] = []

    def flush() -> None:
        sam2 = CachedPredictor(predictor)
        for name in prompts:
            strategy = strategy_class(PROMPTS[name])(PROMPTS[name], sam2)
            prepared = [strategy.prepare(case.image, row) for case, row in waiting]
            for (case, _), result in zip(waiting, strategy.segment(prepared), strict=True):
                add(case.set, name, dice(result.mask, case.mask))
        waiting.clear()

    def add(group: str, name: str, value: float) -> None:
        found.setdefault(group, {}).setdefault(name, []).append(value)

    for done, case in enumerate(cases, 1):
        height, width = case.mask.shape
        box = jitter_box(box_of(torch.from_numpy(case.mask)), JITTER, rng, height, width)
        x, y = deepest_point(case.mask)
        add(case.set, ELLIPSE, dice(ellipse(box, height, width), case.mask))
        row = {"box": ",".join(f"{v:.3f}" for v in box), "points": f"{x + 0.5},{y + 0.5},1"}
        waiting.append((case, row))
        if len(waiting) == BATCH:
            flush()
        if done % (10 * BATCH) == 0:
            log.info("%d images evaluated", done)
    if waiting:
        flush()
    return {g: {n: np.array(v) for n, v in by.items()} for g, by in found.items()}


def held_out_cases(items: Iterable[Item]) -> list[Case]:
    """Return the held-out images as cases."""
    return [
        Case(i.set, np.ascontiguousarray(i.image.permute(1, 2, 0).numpy()), i.mask.numpy())
        for i in items
        if i.held_out
    ]


def _read(image: Path, mask: Path, name: str) -> Case | None:
    truth = np.array(Image.open(mask).convert("L")) > 0
    pixels = np.array(Image.open(image).convert("RGB"))
    if truth.shape != pixels.shape[:2]:
        raise ConfigError("mask and image differ in size", path=mask, remedy="restore the data")
    return Case(name, pixels, truth) if truth.any() else None


def four_sets(data: Path, limit: int | None = None) -> Iterable[Case]:
    """Yield the images of the study datasets that have a true mask.

    breast: all lesions; brain: the test part; lung: the test part's safely paired masks
    (rank at most 5 in lung_masks.csv).

    Args:
        data: the folder of brain, lung, breast and their masks.
        limit: maximum number per dataset, evenly spaced.
    """
    with open(data / "lung_masks.csv", newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if int(r["rank"]) <= 5]
    pairs: dict[str, list[tuple[Path, Path]]] = {
        "breast": _matching(data / "breast", data / "breast_masks"),
        "brain": _matching(data / "brain/test", data / "brain_masks/test"),
        "lung": sorted(
            (data / r["path"], data / r["mask"]) for r in rows if r["path"].startswith("lung/test/")
        ),
    }
    for name, both in pairs.items():
        if limit is not None:
            both = [pair for pair in both if _holds_something(pair[1])]
            step = max(1.0, len(both) / limit)
            both = [both[int(n * step)] for n in range(min(limit, len(both)))]
        for image, mask in both:
            if (case := _read(image, mask, name)) is not None:
                yield case


def _holds_something(mask: Path) -> bool:
    with Image.open(mask) as file:
        return file.convert("L").getbbox() is not None


def _matching(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Pair every mask with the image of its folder and stem."""
    by_stem = {p.relative_to(images).with_suffix(""): p for p in images.rglob("*.*") if p.is_file()}
    pairs = []
    for mask in sorted(masks.rglob("*.png")):
        image = by_stem.get(mask.relative_to(masks).with_suffix(""))
        if image is not None:
            pairs.append((image, mask))
    return pairs


STUDY_PROMPTS = tuple(name for name in PROMPTS if name != "auto")
"""`auto` decodes 64 clicks an image: it runs on the held-out images only."""


def choose_default(measured: dict[str, dict[str, np.ndarray]]) -> str:
    """Return the promptless strategy with the best mean over the held-out sets' means."""
    names = [n for n in WITHOUT_A_PROMPT if all(n in by for by in measured.values())]
    return max(names, key=lambda n: float(np.mean([by[n].mean() for by in measured.values()])))
