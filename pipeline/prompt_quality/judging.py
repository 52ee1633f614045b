"""Every strategy asked about the same images, and its masks compared with the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Params
from pipeline.devices import one_thread_here
from pipeline.engine import WorkItem
from pipeline.errors import ConfigError, ImageError
from pipeline.images import read_image, read_mask
from pipeline.io import sha256_json
from pipeline.models import Sam2ImagePredictor
from pipeline.prompt_quality.references import ELLIPSE, ellipse, reference_prompts
from pipeline.prompt_quality.remember import Remembering
from pipeline.prompt_quality.table import FIGURES
from pipeline.segment.mapper import SegmentMapper
from pipeline.segment.overlap import hd95, overlap
from pipeline.segment.quality import bounding_box
from pipeline.segment.strategies import Strategy


@dataclass(frozen=True)
class Case:
    """An image with its ground truth and the prompts made from it.

    Args:
        image: uint8 (h, w, 3).
        truth: bool (h, w), not empty.
        box: float64 (4,), the box of the reference prompt.
        row: the manifest's row with the reference prompts in `box` and `points`.
    """

    image: np.ndarray
    truth: np.ndarray
    box: np.ndarray
    row: dict[str, Any]


class Judge:
    """Every strategy over one predictor.

    Args:
        params: sections `prompt_quality` and `segment`.
        predictor: the loaded SAM2.

    Attributes:
        names: the rows an image gets: the strategies, and `box-ellipse` where `box` is one.

    Raises:
        ConfigError: an unknown strategy, or `manifest`, which is the ground truth itself.
    """

    def __init__(self, params: Params, predictor: Sam2ImagePredictor):
        self.params = params.prompt_quality
        self.sam = Remembering(predictor)
        self.strategies: dict[str, Strategy] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        for name in self.params.strategies:
            section = params.segment.model_copy(update={"prompt": name})
            try:
                mapper = SegmentMapper(section, predictor)
            except ConfigError as error:
                message = error.message.replace("segment.prompt", "prompt_quality.strategies")
                raise ConfigError(message, remedy=error.remedy) from None
            if mapper.strategy.mask_file:
                raise ConfigError(
                    f"prompt_quality.strategies: {name!r} is the ground truth itself",
                    remedy="leave it out",
                )
            self.strategies[name] = mapper.strategy
            self._identities[name] = mapper.identity
        self.names = list(self.strategies)
        if "box" in self.names:
            self.names.append(ELLIPSE)
            self._identities[ELLIPSE] = {"floor": "the ellipse in the box", "version": 1}

    def from_truth(self, name: str) -> bool:
        """Whether a row's prompt is made from the ground truth."""
        return name == ELLIPSE or bool(self.strategies[name].columns)

    def key(self, item: WorkItem, name: str) -> str:
        """Hash of all that decides one row: image, truth, model, strategy, reference prompt."""
        reference = [self.params.box_jitter, self.params.seed] if self.from_truth(name) else None
        return sha256_json([item.key, self._identities[name], reference])

    def load(self, item: WorkItem) -> Case:
        """Read an image and its ground truth and make the reference prompts; in loader threads.

        Raises:
            ImageError: one of the two cannot be read, or the truth is empty.
        """
        one_thread_here()
        image = read_image(item.path, item.frame)
        truth_file = item.row["truth_file"]
        truth = read_mask(truth_file, item.frame, shape=image.shape[:2])
        if not truth.any():
            raise ImageError(
                "the ground truth is empty", path=truth_file, remedy="run: pipeline data refresh"
            )
        seed = f"{self.params.seed}\n{item.row['sha256']}#{item.frame}"
        box, text, points = reference_prompts(truth, self.params.box_jitter, seed)
        return Case(image, truth, box, {**item.row, "box": text, "points": points})

    def masks(self, cases: Sequence[Case]) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Yield each of `names` and its masks, bool (h, w), for a batch of cases."""
        for name, strategy in self.strategies.items():
            looks = [strategy.prepare(case.image, case.row, self.sam) for case in cases]
            yield name, [found.mask for found in strategy.segment(looks, self.sam)]
        if ELLIPSE in self.names:
            yield ELLIPSE, [ellipse(case.box, *case.truth.shape) for case in cases]
        self.sam.forget()


def compare(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return `FIGURES` of a mask against a truth that is not empty, both bool (h, w)."""
    # All pixels of either lie in the box around both, so nothing changes but the time it takes.
    x0, y0, x1, y1 = bounding_box(mask | truth)
    inside = slice(y0, y1), slice(x0, x1)
    dice, iou = overlap(mask[inside], truth[inside])
    areas = float(mask.mean()), float(truth.mean())
    return dict(zip(FIGURES, (dice, iou, hd95(mask[inside], truth[inside]), *areas), strict=True))
