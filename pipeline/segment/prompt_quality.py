"""Benchmark the prompt strategies against ground truth: cache/<dataset>/prompt_quality.parquet.

One mapper runs every strategy on an image; the table takes the place of a store. Prompts made from
the ground truth are references for these figures: no mask made here is used by another stage.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from scipy import ndimage
from torch import Tensor

from pipeline.config import Params
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import image_items, run_stage, select
from pipeline.errors import ConfigError, ImageError
from pipeline.images import read_image, read_mask
from pipeline.io import FileHashes, atomic_write, sha256_json
from pipeline.manifest import class_names, read_manifest
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.segment.embeddings import same_embeddings, stored_embedding
from pipeline.segment.guide import Guide
from pipeline.segment.predictor import CachedPredictor
from pipeline.segment.quality import bounding_box, hd95, overlap
from pipeline.segment.segment import SegmentMapper, find_guide, load_predictor
from pipeline.segment.strategies import STRATEGIES, Strategy, strategy_class
from pipeline.store import EmbeddingStore, WorkItem
from pipeline.store.items import Plan

if TYPE_CHECKING:
    from pipeline.models import ClipModel  # slow to import

ELLIPSE = "box-ellipse"
"""The floor of a box prompt: the ellipse inside the same box, without a model."""
FIGURES = ("dice", "iou", "hd95", "pred_area_fraction", "gt_area_fraction")
COLUMNS = ("image_id", "label", "split", "strategy", *FIGURES, "from_truth", "key")
"""`from_truth`: the prompt was made from the ground truth. `key`: hash of what decides a row."""
COMMIT_SECONDS = 5.0
"""Longest time that a finished image is in memory only."""

Row = dict[str, Any]


def measure_prompts(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    predictor: Sam2ImagePredictor | None = None,
    clip: ClipModel | None = None,
) -> RunRecord:
    """Measure the strategies of `prompt_quality.strategies` on a sample with ground truth.

    Writes cache/<dataset>/prompt_quality.parquet, one row per image and strategy: `dice`, `iou`,
    `hd95` (pixels), areas as shares of the image, `from_truth`. A strategy that needs a box or
    clicks (`box`, `points`) gets them from the ground truth, with the edges of the box moved by
    `box_jitter`; next to `box` there is `box-ellipse`, the ellipse in the same box.

    Images whose bytes, truth, model and parameters have not changed are not measured again: an
    interrupted run continues, and a larger sample adds to a smaller one. `options.only` selects
    images of the sample. Arguments, result and errors are those of `segment_dataset`.
    """
    section = params.prompt_quality
    manifest = read_manifest(paths.manifest(dataset))
    synthetic = bool((manifest["synthetic"] == "1").any())
    sample = truth_sample(manifest, section.phantoms if synthetic else section.images, section.seed)
    asked = set(select(sample, options.only)["image_id"])
    mapper, identity = None, {}
    if len(sample):  # a dataset without ground truth needs no model
        guides: dict[str, Guide | None] = {}
        for name, kind in judged(params).items():
            guide = find_guide(kind, dataset, params, paths, options, class_names(manifest), clip)
            clip, guides[name] = guide.clip if guide and guide.clip else clip, guide
        mapper = PromptMapper(params, predictor or load_predictor(params, options), guides)
        mapper.embeddings = same_embeddings(dataset, paths, mapper.predictor, mapper.window)
        identity = mapper.identity
    content, hashes = {"mapper": sha256_json(identity)}, FileHashes(paths.hashes(dataset))
    data = paths.data(dataset)
    items = image_items(sample, data, lambda row: content, truth=True, hashes=hashes)
    table = PromptTable(paths.prompt_quality(dataset), items, identity)
    items = [item for item in items if item.image_id in asked]
    return run_stage(
        "prompt_quality", dataset, params, paths, options, items, mapper, table, hashes
    )


class PromptMapper:
    """Every strategy of `params.prompt_quality` on one SAM2, as a mapper of the engine; `guides`
    are of those that use words, by name. Raises ConfigError as `judged`."""

    def __init__(
        self,
        params: Params,
        predictor: Sam2ImagePredictor,
        guides: Mapping[str, Guide | None],
    ):
        self.params, self.window = params.prompt_quality, params.images.shown
        self.predictor = predictor
        self.device = predictor.device.type
        self.sections = {
            name: params.segment.model_copy(update={"prompt": name}) for name in judged(params)
        }
        self.guides = guides
        self.embeddings: EmbeddingStore | None = None
        self.identity: Row = {"jitter": self.params.box_jitter, "seed": self.params.seed}
        for name, section in self.sections.items():
            mapper = SegmentMapper(section, predictor, self.window, guides.get(name))
            self.identity[name] = mapper.identity

    def load(self, item: WorkItem) -> tuple[np.ndarray, np.ndarray, list[Tensor] | None]:
        """Read an image, uint8 (h, w, 3), its ground truth, bool (h, w), with some pixels, and its
        embedding if it is stored."""
        image = read_image(item.path, item.frame, window=self.window)
        file = item.row["truth_file"]
        truth = read_mask(file, item.frame, shape=image.shape[:2])
        if not truth.any():
            remedy = "run: pipeline data refresh"
            raise ImageError("the ground truth is empty", path=file, remedy=remedy)
        return image, truth, stored_embedding(self.embeddings, item.row)

    def map(
        self,
        items: Sequence[WorkItem],
        loaded: Sequence[tuple[np.ndarray, np.ndarray, list[Tensor] | None]],
    ) -> list[list[Row]]:
        """Return for each image its rows: one per strategy, and `box-ellipse` next to `box`."""
        seeds = [f"{self.params.seed}\n{item.row['sha256']}#{item.frame}" for item in items]
        truths = [truth for _, truth, _ in loaded]
        jitter = repeat(self.params.box_jitter)
        references = list(map(reference_prompts, truths, jitter, seeds))
        found: dict[tuple[str, bool], list[np.ndarray]] = {}  # masks by name and from_truth
        known = [(image, maps) for image, _, maps in loaded if maps]
        sam2 = CachedPredictor(self.predictor, known)
        for name, section in self.sections.items():
            strategy = strategy_class(section)(section, sam2, self.guides.get(name))
            pairs = zip(loaded, references, strict=True)
            prepared = [strategy.prepare(image, given) for (image, *_), (_, given) in pairs]
            masks = [row.mask for row in strategy.segment(prepared)]
            found[name, bool(strategy.columns)] = masks
        if "box" in self.sections:
            pairs = zip(truths, references, strict=True)
            found[ELLIPSE, True] = [ellipse(box, *truth.shape) for truth, (box, _) in pairs]
        return [
            [
                {"strategy": name, "from_truth": given, **figures_of(masks[i], truth)}
                for (name, given), masks in found.items()
            ]
            for i, truth in enumerate(truths)
        ]


def judged(params: Params) -> dict[str, type[Strategy]]:
    """Return the strategies of `prompt_quality.strategies` by name; ConfigError for an unknown one,
    or `manifest`, which is the ground truth itself."""
    names = params.prompt_quality.strategies
    known = {name: kind for name, kind in STRATEGIES.items() if not kind.uses_truth}
    if unusable := [name for name in names if name not in known]:
        raise ConfigError(
            f"prompt_quality.strategies: {', '.join(unusable)} is unknown or the truth itself",
            remedy=f"choose from {', '.join(known)}",
        )
    return {name: known[name] for name in names}


def compared(table: pd.DataFrame) -> pd.Series:
    """Return the mean Dice of the strategies that need no ground truth, the best first."""
    dice = table[~table["from_truth"]].groupby("strategy")["dice"].mean()
    return dice.sort_values(ascending=False, kind="stable")


def best_line(dataset: str, params: Params, paths: Paths) -> str:
    """Return what was measured and the line of the best strategy for params.yaml, with the
    parameters that it was measured with; "" if nothing was."""
    file, section = paths.prompt_quality(dataset), params.segment.model_dump(mode="json")
    dice = compared(pd.read_parquet(file)) if file.is_file() else pd.Series()
    if dice.empty:
        return ""
    used = STRATEGIES[dice.index[0]].parameters
    values = {"prompt": dice.index[0]} | {name: section[name] for name in used}
    line = yaml.safe_dump({"segment": values}, default_flow_style=True, width=999, sort_keys=False)
    figures = ", ".join(f"{name} {value:.3f}" for name, value in dice.items())
    return f"Dice without ground truth: {figures}\nbest here, for params.yaml: {line.strip()[1:-1]}"


class PromptTable:
    """prompt_quality.parquet as a writer of the engine.

    A damaged file counts as empty. `items` are those of the whole sample: they give the order of
    the rows, and label and split, which decide no figure.
    """

    def __init__(self, path: Path, items: Sequence[WorkItem], identity: Row):
        self.path, self.items = path, items
        self.identity_hash = sha256_json(identity)
        self._committed = time.monotonic()
        self.figures: dict[str, list[Row]] = {}
        with suppress(OSError, ValueError, KeyError):
            table = pd.read_parquet(path, columns=list(COLUMNS))
            table = table[table["key"].isin({item.key for item in items})]
            for key, rows in table.drop_duplicates(["key", "strategy"]).groupby("key"):
                self.figures[key] = rows.to_dict("records")

    def plan(self, items: Sequence[WorkItem], *, force: bool = False) -> Plan:
        """Return the items whose figures are missing; all of them with `force`."""
        known = {} if force else self.figures
        todo = [(item, "") for item in items if item.key not in known]
        return Plan(todo=todo, reused=[item for item in items if item.key in known])

    def prepare(self, item: WorkItem, rows: list[Row]) -> tuple[str, list[Row]]:
        return item.key, rows

    def put(self, prepared: Sequence[tuple[str, list[Row]]]) -> None:
        self.figures |= dict(prepared)
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def write_failed(self, item: WorkItem, reason: str) -> None:
        """The record names the images that failed."""

    def commit(self) -> None:
        names = ("image_id", "label", "split")
        rows = [
            row | {name: item.row[name] for name in names} | {"key": item.key}
            for item in self.items
            for row in self.figures.get(item.key, [])
        ]
        types = dict.fromkeys(COLUMNS, "str") | dict.fromkeys(FIGURES, "float64")
        types["from_truth"] = "bool"
        with atomic_write(self.path) as partial:
            pd.DataFrame(rows, columns=list(COLUMNS)).astype(types).to_parquet(partial, index=False)
        self._committed = time.monotonic()

    def finish(self) -> None:
        """All is committed."""


def figures_of(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return `FIGURES` of a mask against a ground truth that is not empty, both bool (h, w)."""
    # All pixels of both lie in the box around both: cropping changes nothing but the time.
    x0, y0, x1, y1 = bounding_box(mask | truth)
    inside = slice(y0, y1), slice(x0, x1)
    dice, iou = overlap(mask[inside], truth[inside])
    areas = float(mask.mean()), float(truth.mean())
    return dict(zip(FIGURES, (dice, iou, hd95(mask[inside], truth[inside]), *areas), strict=True))


def reference_prompts(
    truth: np.ndarray, jitter: float, seed: str
) -> tuple[np.ndarray, dict[str, str]]:
    """Return a box around a mask, bool (h, w), and it and a click in the mask as columns of a
    manifest. Each edge of the box is moved by up to `jitter` of its side, as `seed` decides."""
    digest = hashlib.sha256(f"reference box\n{seed}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    box = jitter_box(np.array(bounding_box(truth), np.float64), jitter, rng, *truth.shape)
    x, y = deepest_point(truth)
    return box, {"box": ",".join(f"{v:.3f}" for v in box), "points": f"{x + 0.5},{y + 0.5},1"}


def jitter_box(
    box: np.ndarray, amount: float, rng: np.random.Generator, height: int, width: int
) -> np.ndarray:
    """Move each edge of a box, float64 x0, y0, x1, y1, by up to `amount` of its side, within the
    image; it stays at least one pixel wide and high."""
    sides = np.tile(box[2:] - box[:2], 2)
    x0, y0, x1, y1 = box + rng.uniform(-amount, amount, 4) * sides
    x0, y0 = np.clip(x0, 0, width - 1), np.clip(y0, 0, height - 1)
    return np.array([x0, y0, np.clip(x1, x0 + 1, width), np.clip(y1, y0 + 1, height)])


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """Return x, y of the pixel farthest from the edge of a mask, where a user would click."""
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
    """Draw images whose ground-truth mask is not empty; `images` = 0 takes all.

    The test part of the dataset comes first, since the weights may have seen masks of the rest;
    other images fill up the sample. Each part is drawn in proportion to its classes. The draw
    depends on the bytes of the images and the seed alone, not on the order or names of the rows.
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
    counts, total = labels.value_counts().sort_index(), min(total, len(labels))
    exact = counts * (total / max(len(labels), 1))
    quota = exact.astype(int).clip(lower=int(total >= len(counts)))
    for label in (exact - quota).sort_values(ascending=False, kind="stable").index:
        quota[label] += quota.sum() < total and quota[label] < counts[label]
    while quota.sum() > total:  # raising small classes to one took from the largest
        quota[quota.idxmax()] -= 1
    return quota.to_dict()
