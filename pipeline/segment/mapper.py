"""SAM2 as a mapper of the stage engine: an image in, a mask with its quality out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.config import SegmentParams
from pipeline.devices import one_thread_here
from pipeline.engine import WorkItem
from pipeline.images import read_image, reader_rules
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment.predictor import BatchPredictor
from pipeline.segment.quality import component_count, mask_status
from pipeline.segment.strategies import Found, Look, make_strategy
from pipeline.store import MaskRow

MAPPER_VERSION = 1
"""Raised when the same model and parameters give other masks than before."""


class SegmentMapper:
    """m = SAM2(x), for run_stage.

    Args:
        params: the segment section of params.yaml.
        predictor: from `pipeline.models.load_sam2`; None for strategies that ask no model
            (`full`, `manifest`).
    """

    def __init__(self, params: SegmentParams, predictor: Sam2ImagePredictor | None = None):
        self.params = params
        self.strategy = make_strategy(params)
        self.sam = None
        if self.strategy.needs_model:
            self.sam = BatchPredictor(predictor)
        self.identity = self._identity()

    def _identity(self) -> dict[str, Any]:
        """Everything that decides a mask, beside the image and its row of the manifest."""
        model = None
        if self.sam is not None:
            predictor = self.sam.predictor
            model = {
                "fingerprint": predictor.fingerprint,
                "precision": predictor.precision,
                "mask_threshold": predictor.mask_threshold,
            }
        return {
            "stage": "segment",
            "mapper_version": MAPPER_VERSION,
            "reader": reader_rules(),
            "model": model,
            "prompt": {
                "strategy": self.strategy.name,
                "version": self.strategy.version,
                **self.strategy.parameters(),
            },
            "status": {"min_area": self.params.min_area, "max_area": self.params.max_area},
        }

    def load(self, item: WorkItem) -> Look:
        """Read an image and make it ready; called in loader threads."""
        one_thread_here()
        # No label, split, path or id: a mask must not know the class (folders name it, too).
        shown = (*self.strategy.columns, "truth_file", "frame")
        row = {name: item.row[name] for name in shown if name in item.row}
        return self.strategy.prepare(read_image(item.path, item.frame), row, self.sam)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Look]) -> list[MaskRow]:
        """Find the masks of a batch."""
        found = self.strategy.segment(list(loaded), self.sam)
        return [
            mask_row(item.image_id, mask, self.params)
            for item, mask in zip(items, found, strict=True)
        ]


def mask_row(image_id: str, found: Found, params: SegmentParams) -> MaskRow:
    """A mask with its quality columns and its status."""
    area = float(found.mask.mean())
    status = mask_status(area, params.min_area, params.max_area)
    reason = "" if status == "ok" else f"mask {status}: {area:.2%} of the image"
    return MaskRow(
        image_id=image_id,
        mask=found.mask,
        status=status,
        prompt=found.prompt,
        predicted_iou=found.predicted_iou,
        stability=found.stability,
        components=component_count(found.mask),
        reason=reason,
    )


def segment_images(
    images: Sequence[np.ndarray],
    params: SegmentParams,
    predictor: Sam2ImagePredictor | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> list[MaskRow]:
    """Masks of images in memory, by the same code as the stage; one batch.

    Args:
        images: uint8 (h, w, 3) each.
        params: the segment section of params.yaml.
        predictor: a loaded SAM2; None for strategies that ask no model.
        rows: their manifest rows, for strategies that read columns.

    Returns:
        One row an image, with image_id "0", "1", ...

    Raises:
        PipelineError: an image's row lacks what the strategy needs.
    """
    if not images:
        return []
    mapper = SegmentMapper(params, predictor)
    rows = rows or [{"box": "", "points": "", "truth_file": "", "frame": "0"}] * len(images)
    looks = [
        mapper.strategy.prepare(image, row, mapper.sam)
        for image, row in zip(images, rows, strict=True)
    ]
    found = mapper.strategy.segment(looks, mapper.sam)
    return [mask_row(str(i), mask, params) for i, mask in enumerate(found)]
