"""Benchmark the prompt strategies against ground truth: cache/<dataset>/prompt_quality.parquet.

One mapper runs every strategy on an image; the table takes the place of a store. Prompts made from
the ground truth are references for these figures: no mask made here is used by another stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from pipeline.config import Params
from pipeline.engine import RunOptions, RunRecord, WorkItem, run_stage
from pipeline.engine.manifest_items import add_truth, image_items, select
from pipeline.errors import ConfigError, ImageError
from pipeline.images import read_image, read_mask
from pipeline.io import atomic_write, sha256_json
from pipeline.manifest import read_manifest
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.segment.overlap import hd95, overlap
from pipeline.segment.predictor import BatchPredictor, Embedding
from pipeline.segment.quality import bounding_box
from pipeline.segment.segment import SegmentMapper, load_predictor
from pipeline.segment.strategies import Models, Strategy, strategy_class
from pipeline.store.items import Plan

ELLIPSE = "box-ellipse"
"""The floor of a box prompt: the ellipse inside the same box, without a model."""
FIGURES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *FIGURES, "note", "from_truth", "key")
"""`from_truth`: the prompt was made from the ground truth. `key`: hash of what decides a row."""

Row = dict[str, Any]


def measure_prompts(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions | None = None,
    *,
    predictor: Sam2ImagePredictor | None = None,
) -> RunRecord:
    """Measure the strategies of `prompt_quality.strategies` on a sample with ground truth.

    Writes cache/<dataset>/prompt_quality.parquet, one row per image and strategy: `dice`, `iou`,
    `hd95` (pixels), areas as shares of the image, `from_truth`, `note`. A strategy that needs a box
    or clicks (`box`, `points`) gets them from the ground truth, with the edges of the box moved by
    `box_jitter`; next to `box` there is `box-ellipse`, the ellipse in the same box.

    Rows made of the same image, truth, model and parameters are kept: an interrupted run
    continues, and a larger sample adds to a smaller one.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `prompt_quality`, `segment` (except `prompt`) and the profile's `sam2` are used.
        paths: of the project folder.
        options: of this run; `limit` counts further images, `only` selects images of the sample.
        predictor: a loaded SAM2, instead of the one of the profile.

    Returns:
        The record of the run, also written to cache/<dataset>/records/prompt_quality.json.

    Raises:
        ManifestError, ModelError, ConfigError: nothing could be done; the message says what to
            change.
        StageFailed: more images failed than `prompt_quality.max_failed` allows; the others are
            measured.
        KeyboardInterrupt: SIGINT or SIGTERM was received; what was measured is kept.
    """
    options = options or RunOptions()
    section = params.prompt_quality
    manifest = read_manifest(paths.manifest(dataset))
    synthetic = bool((manifest["synthetic"] == "1").any())
    size = section.phantoms if synthetic else section.images
    sample = truth_sample(manifest, size, section.seed)
    requested = set(select(manifest, options.only)["image_id"])
    data = paths.data(dataset)
    items = image_items(sample, data, lambda row: {"truth": add_truth(row, data)})
    asked = [item for item in items if item.image_id in requested]
    if options.only is not None and not asked:
        raise ConfigError(
            "none of these images is in the sample of images with ground truth",
            remedy="use all of them as the sample: --images 0",
        )
    mapper = None
    if items:  # a dataset without ground truth needs no model
        mapper = PromptMapper(params, predictor or load_predictor(params, options))
    return run_stage(
        "prompt_quality",
        asked,
        lambda: mapper,
        PromptTable(paths.prompt_quality(dataset), items, mapper),
        options,
        dataset=dataset,
        record_path=paths.record(dataset, "prompt_quality"),
        max_failed=section.max_failed,
        parameters={"profile": params.profile, "prompt_quality": section.model_dump(mode="json")},
    )


@dataclass(frozen=True)
class Case:
    """An image with its ground truth and the prompts made from it.

    Args:
        image: uint8 (h, w, 3).
        truth: bool (h, w), not empty.
        box: float64 (4,), the box of the reference prompt.
        columns: `box` and `points` as a manifest has them.
    """

    image: np.ndarray
    truth: np.ndarray
    box: np.ndarray
    columns: dict[str, str]


class PromptMapper:
    """Every strategy on one SAM2, as a mapper of the engine.

    Args:
        params: sections `prompt_quality` and `segment`.
        predictor: from `pipeline.models.load_sam2`.

    Attributes:
        names: the rows of an image: the strategies, and `box-ellipse` if `box` is one of them.

    Raises:
        ConfigError: an unknown strategy, or `manifest`, which is the ground truth itself.
    """

    def __init__(self, params: Params, predictor: Sam2ImagePredictor):
        self.params = params.prompt_quality
        self.predictor = predictor
        self.device = predictor.device.type
        self.sections = {}
        self.identities: dict[str, dict[str, Any]] = {}
        for name in self.params.strategies:
            section = params.segment.model_copy(update={"prompt": name})
            try:
                self.identities[name] = SegmentMapper(section, predictor).identity
            except ConfigError as error:
                message = error.message.replace("segment.prompt", "prompt_quality.strategies")
                raise ConfigError(message, remedy=error.remedy) from None
            if strategy_class(section).uses_truth:
                raise ConfigError(
                    f"prompt_quality.strategies: {name!r} is the ground truth itself",
                    remedy="remove it",
                )
            self.sections[name] = section
        self.names = list(self.sections)
        if "box" in self.names:
            self.names.append(ELLIPSE)
            self.identities[ELLIPSE] = {"floor": "the ellipse in the box", "version": 1}

    def from_truth(self, name: str) -> bool:
        """Return whether the prompt of a row is made from the ground truth."""
        return name == ELLIPSE or bool(strategy_class(self.sections[name]).columns)

    def key(self, item: WorkItem, name: str) -> str:
        """Return the hash of what decides a row: image, truth, model, strategy, prompt."""
        reference = [self.params.box_jitter, self.params.seed] if self.from_truth(name) else None
        return sha256_json([item.key, self.identities[name], reference])

    def load(self, item: WorkItem) -> Case:
        """Read an image and its ground truth and make the reference prompts.

        Raises:
            ImageError: one of the two cannot be read, or the ground truth is empty.
        """
        image = read_image(item.path, item.frame)
        truth_file = item.row["truth_file"]
        truth = read_mask(truth_file, item.frame, shape=image.shape[:2])
        if not truth.any():
            raise ImageError(
                "the ground truth is empty", path=truth_file, remedy="run: pipeline data refresh"
            )
        seed = f"{self.params.seed}\n{item.row['sha256']}#{item.frame}"
        box, text, points = reference_prompts(truth, self.params.box_jitter, seed)
        return Case(image, truth, box, {"box": text, "points": points})

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Case]) -> list[list[Row]]:
        """Return for each image its rows, one per name."""
        masks: dict[str, list[np.ndarray]] = {}
        models = Models(CachedPredictor(self.predictor))
        for name, section in self.sections.items():
            strategy: Strategy = strategy_class(section)(section, models)
            prepared = [strategy.prepare(case.image, case.columns) for case in loaded]
            masks[name] = [result.mask for result in strategy.segment(prepared)]
        if ELLIPSE in self.names:
            masks[ELLIPSE] = [ellipse(case.box, *case.truth.shape) for case in loaded]
        rows = []
        for i, (item, case) in enumerate(zip(items, loaded, strict=True)):
            figures = {name: figures_of(masks[name][i], case.truth) for name in self.names}
            rows.append([self.row(item, name, figures[name]) for name in self.names])
        return rows

    def row(self, item: WorkItem, name: str, figures: Mapping[str, float], note: str = "") -> Row:
        """Return one row of the table; `note` says why an image failed."""
        if figures["pred_area_fraction"] == 0:
            note = "empty mask: HD95 not defined"
        return {
            "image_id": item.image_id,
            "label": item.row["label"],
            "split": item.row["split"],
            "strategy": name,
            **figures,
            "note": note,
            "from_truth": self.from_truth(name),
            "key": self.key(item, name),
        }


class CachedPredictor(BatchPredictor):
    """A predictor that encodes equal frames once, however many strategies ask for them.

    It is made for one batch; not for several threads at the same time.
    """

    def __init__(self, predictor: Sam2ImagePredictor):
        super().__init__(predictor)
        self._frames: dict[tuple, torch.Tensor] = {}
        self._embeddings: dict[tuple, Embedding] = {}

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        key = (image.shape, image.tobytes())
        if key not in self._frames:
            self._frames[key] = super().preprocess(image)
        return self._frames[key]

    def embed(self, frames: list[torch.Tensor]) -> Embedding:
        key = tuple(map(id, frames))  # frames stay alive in `_frames`, so ids are unique
        if key not in self._embeddings:
            self._embeddings[key] = super().embed(frames)
        return self._embeddings[key]


def figures_of(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return `FIGURES` of a mask against a ground truth that is not empty, both bool (h, w)."""
    # All pixels of both lie in the box around both: cropping changes nothing but the time.
    x0, y0, x1, y1 = bounding_box(mask | truth)
    inside = slice(y0, y1), slice(x0, x1)
    dice, iou = overlap(mask[inside], truth[inside])
    areas = float(mask.mean()), float(truth.mean())
    return dict(zip(FIGURES, (dice, iou, hd95(mask[inside], truth[inside]), *areas), strict=True))


class PromptTable:
    """prompt_quality.parquet as a writer of the engine.

    Args:
        path: of the table; a file that is missing, damaged or has other columns counts as empty.
        items: of the whole sample, in order.
        mapper: decides which stored rows are up to date; None without images.
    """

    def __init__(self, path: Path, items: Sequence[WorkItem], mapper: PromptMapper | None):
        self.path, self.items, self.mapper = path, items, mapper
        self.identity_hash = sha256_json(list(mapper.identities.values()) if mapper else [])
        self.rows: dict[str, list[Row]] = {}
        try:
            table = pd.read_parquet(path, columns=list(COLUMNS))
        except (OSError, ValueError, KeyError):
            return
        measured = table[table["dice"].notna()].to_dict("records")
        stored = {row["key"]: row for row in measured}
        for item in items:
            rows = [stored.get(mapper.key(item, name)) for name in mapper.names]
            if all(rows):
                # Label and split decide no figure: take those of the manifest.
                now = {name: item.row[name] for name in ("image_id", "label", "split")}
                self.rows[item.image_id] = [row | now for row in rows]

    def plan(self, items: Sequence[WorkItem], *, force: bool = False) -> Plan:
        """Return the items whose rows are missing; all of them with `force`."""
        reused = [item for item in items if item.image_id in self.rows and not force]
        kept = {item.image_id for item in reused}
        todo = [(item, "") for item in items if item.image_id not in kept]
        return Plan(todo=todo, reused=reused)

    def prepare(self, item: WorkItem, rows: list[Row]) -> list[Row]:
        """Return the rows of one image as `put` takes them."""
        return rows

    def put(self, images: Sequence[list[Row]]) -> None:
        """Add the rows of some images and write the table, in the order of the sample."""
        self.rows |= {rows[0]["image_id"]: rows for rows in images}
        rows = [row for item in self.items for row in self.rows.get(item.image_id, [])]
        types = dict.fromkeys(COLUMNS, "str") | dict.fromkeys(FIGURES, "float64")
        types["from_truth"] = "bool"
        with atomic_write(self.path) as partial:
            pd.DataFrame(rows, columns=list(COLUMNS)).astype(types).to_parquet(partial, index=False)

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """Add rows with a note and no figures, so that a failed image is counted."""
        nothing = dict.fromkeys(FIGURES, np.nan)
        self.put([[self.mapper.row(item, name, nothing, reason) for name in self.mapper.names]])

    def commit(self) -> None:
        """Write the table, even if no row was added."""
        self.put([])

    def finish(self) -> None:
        """Nothing is left to do."""


def reference_prompts(truth: np.ndarray, jitter: float, seed: str) -> tuple[np.ndarray, str, str]:
    """Return the box around a mask, the same box as text and one click as text.

    Args:
        truth: bool (h, w), not empty.
        jitter: each edge of the box is moved by up to this share of the side of the box.
        seed: any text; decides the moves.

    Returns:
        float64 (4,) box, "x0,y0,x1,y1", "x,y,1", in pixels, as the manifest has them.
    """
    digest = hashlib.sha256(f"reference box\n{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    tight = np.array(bounding_box(truth), dtype=np.float64)
    box = jitter_box(tight, jitter, rng, *truth.shape)
    x, y = deepest_point(truth)
    return box, ",".join(f"{v:.3f}" for v in box), f"{x + 0.5},{y + 0.5},1"


def jitter_box(
    box: np.ndarray, amount: float, rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
    """Move each edge of a box by up to `amount` of its side, within the image.

    Args:
        box: x0, y0, x1, y1 in pixels.
        amount: 0.1 moves an edge by at most a tenth of the side, uniformly.
        rng: draws the four moves.
        height: of the image.
        width: of the image.

    Returns:
        float64 (4,), at least one pixel wide and high.
    """
    sides = np.tile(box[2:] - box[:2], 2)
    x0, y0, x1, y1 = box + rng.uniform(-amount, amount, 4) * sides
    x0, y0 = np.clip(x0, 0, width - 1), np.clip(y0, 0, height - 1)
    return np.array([x0, y0, np.clip(x1, x0 + 1, width), np.clip(y1, y0 + 1, height)])


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """Return x, y of the pixel farthest from the edge of a mask, where a user would click.

    Args:
        mask: bool (h, w), not empty.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    depth = ndimage.distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return x0 + int(x), y0 + int(y)


def ellipse(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the ellipse inside a box (x0, y0, x1, y1) as a bool (height, width) mask."""
    x0, y0, x1, y1 = box
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    squared = ((x - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2
    return squared + ((y - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1


def truth_sample(manifest: pd.DataFrame, images: int, seed: int) -> pd.DataFrame:
    """Draw images whose ground-truth mask is not empty.

    The test part of the dataset comes first, since the weights may have seen masks of the rest;
    other images fill up the sample. Each part is drawn in proportion to its classes. The draw
    depends on the bytes of the images and the seed alone, not on the order or names of the rows.

    Args:
        manifest: from `read_manifest`.
        images: size of the sample; 0 takes all.
        seed: of the draw.

    Returns:
        The rows, in the order of the manifest; all that exist if these are fewer.
    """
    # An area that was not counted ("") is checked when the mask is read.
    candidates = manifest[(manifest["mask_path"] != "") & (manifest["mask_area"] != "0")]
    if not images or images >= len(candidates):
        return candidates
    rank = {
        row.Index: hashlib.sha256(f"{seed}\n{row.sha256}#{row.frame}".encode()).hexdigest()
        for row in candidates.itertuples()
    }
    chosen: list = []
    test = candidates["split"] == "test"
    for part in (candidates[test], candidates[~test]):
        for label, count in class_quotas(part["label"], images - len(chosen)).items():
            rows = part.index[part["label"] == label]
            chosen += sorted(rows, key=lambda i: (rank[i], part.at[i, "image_id"]))[:count]
    return candidates.loc[sorted(chosen)]


def class_quotas(labels: pd.Series, total: int) -> dict[str, int]:
    """Distribute `total` over the classes in proportion to their size (largest remainder).

    A class gets at most its size, and at least one while there are as many to give as classes.
    """
    counts = labels.value_counts().sort_index()
    total = min(total, len(labels))
    if not total:
        return {}
    exact = counts * (total / len(labels))
    quota = exact.astype(int)
    if total >= len(counts):
        quota = quota.clip(lower=1)
    for label in (exact - quota).sort_values(ascending=False, kind="stable").index:
        if quota.sum() < total and quota[label] < counts[label]:
            quota[label] += 1
    while quota.sum() > total:  # raising small classes to one took from the largest
        quota[quota.idxmax()] -= 1
    return {str(label): int(n) for label, n in quota.items()}
