"""What a prompt strategy is, and what it makes of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from pipeline.config import SegmentParams
from pipeline.models.prompts import draw_box_prompt
from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.quality import stability_score
from pipeline.segment.regions import Region, zoom_region


@dataclass(frozen=True)
class Found:
    """A mask as a strategy gives it.

    Args:
        mask: bool (h, w) at the image's own size.
        predicted_iou: SAM2's own estimate; NaN where no model was asked.
        stability: see pipeline.segment.quality.stability_score; NaN likewise.
        prompt: what was asked, in words, in pixels of the image.
    """

    mask: np.ndarray
    predicted_iou: float
    stability: float
    prompt: str


@dataclass
class Look:
    """One image made ready in a loader thread.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        region: the part that SAM2 sees.
        frame: that part, preprocessed; None where no model is asked.
        prompt: in pixels of the region.
        words: the prompt for the mask store.
        image: uint8 (h, w, 3), kept only by strategies that look twice.
        extra: whatever else a strategy wants to hand from `prepare` to `segment`.
    """

    height: int
    width: int
    region: Region
    frame: Tensor | None
    prompt: Prompt = field(default_factory=Prompt)
    words: str = ""
    image: np.ndarray | None = None
    extra: Any = None

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the region."""
        x0, y0, x1, y1 = self.region
        return y1 - y0, x1 - x0


class Strategy:
    """A way to ask SAM2 for the mask of an image. Subclasses set `name` and override `ask`.

    Attributes:
        columns: manifest columns whose content decides the mask, beside the image itself.
        mask_file: whether the ground-truth mask file decides it.
        needs_model: False for strategies that never run SAM2.
        version: raised when the same parameters give other masks than before.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    mask_file: ClassVar[bool] = False
    needs_model: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, params: SegmentParams):
        self.params = params

    def parameters(self) -> dict[str, Any]:
        """The parameters that decide this strategy's masks; they enter the store's identity."""
        return {}

    def ask(
        self, row: Mapping[str, Any], height: int, width: int, size: int
    ) -> tuple[Region, Prompt, str]:
        """Say what SAM2 shall look at and what it is asked.

        Args:
            row: the image's manifest row.
            height: of the image.
            width: of the image.
            size: side of SAM2's mask prompt.

        Raises:
            PipelineError: the row lacks what the strategy needs.
        """
        return (0, 0, width, height), Prompt(), self.name

    def prepare(
        self, image: np.ndarray, row: Mapping[str, Any], sam: BatchPredictor | None
    ) -> Look:
        """Make an image ready; runs in a loader thread.

        Args:
            image: uint8 (h, w, 3).
            row: its manifest row.
            sam: the model; None only for strategies that need none.
        """
        height, width = image.shape[:2]
        region, prompt, words = self.ask(row, height, width, sam.mask_prompt_size)
        frame = sam.preprocess(cut(image, region))
        return Look(height, width, region, frame, prompt, words)

    def segment(self, looks: list[Look], sam: BatchPredictor | None) -> list[Found]:
        """Find the masks of a batch: one pass of the encoder, one of the decoder."""
        logits, ious = sam.decode(
            sam.embed([look.frame for look in looks]),
            [look.prompt for look in looks],
            [look.frame_size for look in looks],
        )
        return [
            found(look, sam, mask, iou)
            for look, mask, iou in zip(looks, logits[:, 0], ious[:, 0], strict=True)
        ]


def cut(image: np.ndarray, region: Region) -> np.ndarray:
    """The part of an image inside a region, contiguous."""
    x0, y0, x1, y1 = region
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def paste(mask: np.ndarray, region: Region, height: int, width: int) -> np.ndarray:
    """A region's mask in a bool (height, width) image that is False elsewhere."""
    x0, y0, x1, y1 = region
    if mask.shape == (height, width):
        return mask
    full = np.zeros((height, width), dtype=bool)
    full[y0:y1, x0:x1] = mask
    return full


def found(look: Look, sam: BatchPredictor, logits: Tensor, iou: float) -> Found:
    """The mask of one (s, s) map of logits, at the image's own size."""
    mask = sam.upsample(logits[None], *look.frame_size)[0]
    stability = stability_score(logits.cpu().numpy(), sam.predictor.mask_threshold)
    full = paste(mask, look.region, look.height, look.width)
    return Found(full, float(iou), float(stability), look.words)


def ask_box(
    box: np.ndarray, params: SegmentParams, height: int, width: int, size: int
) -> tuple[Region, Prompt, str]:
    """A box as SAM2 is asked for it: on a zoomed part, by corners and (as chosen) as a mask.

    A region that is cut off by the image's border is simply smaller; nothing is made up outside.
    """
    region = zoom_region(box, params.zoom, width, height)
    x0, y0, x1, y1 = region
    inner = np.asarray(box, np.float32) - np.array([x0, y0, x0, y0], np.float32)
    drawn = draw_box_prompt(inner, y1 - y0, x1 - x0, size) if params.box_as_mask else None
    words = "box " + ",".join(f"{v:g}" for v in np.asarray(box, float).round(1))
    if region != (0, 0, width, height):
        words += f" on {x0},{y0},{x1},{y1}"
    return region, Prompt.box(inner, drawn), words
