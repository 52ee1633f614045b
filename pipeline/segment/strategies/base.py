"""The interface of a prompt strategy: an image in, a mask out."""

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
class Models:
    """What strategies may use besides the image and its columns.

    A strategy names the fields it needs in `requires`. A new model, or the words of all classes,
    is a further field here.

    Args:
        sam2: batched SAM2.
    """

    sam2: BatchPredictor | None = None


@dataclass(frozen=True)
class MaskResult:
    """The mask that a strategy found.

    Args:
        mask: bool (h, w) at the size of the image.
        predicted_iou: SAM2's own estimate; NaN without a model.
        stability: see `pipeline.segment.quality.stability_score`; NaN without a model.
        prompt: the prompt as text, in pixels of the image.
    """

    mask: np.ndarray
    predicted_iou: float
    stability: float
    prompt: str


@dataclass
class PreparedImage:
    """One image, preprocessed in a loader thread.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        region: the part of the image that SAM2 sees.
        frame: that part, preprocessed; None without a model.
        prompt: in pixels of the region.
        prompt_text: the prompt for the mask store.
        image: uint8 (h, w, 3); kept only by strategies that segment twice.
        truth: bool (h, w) ground truth; kept only by strategies that use it.
    """

    height: int
    width: int
    region: Region
    frame: Tensor | None
    prompt: Prompt = field(default_factory=Prompt)
    prompt_text: str = ""
    image: np.ndarray | None = None
    truth: np.ndarray | None = None

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the region, pixels."""
        x0, y0, x1, y1 = self.region
        return y1 - y0, x1 - x0


class Strategy:
    """How SAM2 is asked for the mask of an image. Subclasses set `name` and override `ask`.

    A strategy never sees label, split, path or id of an image.

    Args:
        params: the segment section of params.yaml.
        models: the models that `requires` names.

    Attributes:
        columns: columns of the manifest that decide the mask, besides the image itself.
        uses_truth: whether the ground-truth mask decides it.
        requires: fields of `Models` that must be set.
        version: incremented when the same parameters give other masks than before.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ()
    uses_truth: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("sam2",)
    version: ClassVar[int] = 1

    def __init__(self, params: SegmentParams, models: Models):
        self.params = params
        self.sam2 = models.sam2

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that decide the masks of this strategy."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the masks besides images and models; part of the store's identity."""
        return {"strategy": self.name, "version": self.version, **self.parameters()}

    def ask(
        self, columns: Mapping[str, Any], height: int, width: int
    ) -> tuple[Region, Prompt, str]:
        """Return the region that SAM2 sees, the prompt in its pixels, and the prompt as text.

        Args:
            columns: the values of `self.columns` of this image.
            height: of the image, pixels.
            width: of the image, pixels.

        Raises:
            PipelineError: a column lacks what the strategy needs.
        """
        return (0, 0, width, height), Prompt(), self.name

    def prepare(
        self, image: np.ndarray, columns: Mapping[str, Any], truth: np.ndarray | None = None
    ) -> PreparedImage:
        """Preprocess an image. Called in loader threads.

        Args:
            image: uint8 (h, w, 3).
            columns: the values of `self.columns` of this image.
            truth: bool (h, w), given only to strategies with `uses_truth`.
        """
        height, width = image.shape[:2]
        region, prompt, text = self.ask(columns, height, width)
        frame = self.sam2.preprocess(crop_region(image, region))
        return PreparedImage(height, width, region, frame, prompt, text)

    def segment(self, prepared: list[PreparedImage]) -> list[MaskResult]:
        """Find the masks of a batch with one pass of the encoder and one of the decoder."""
        logits, ious = self.sam2.decode(
            self.sam2.embed([one.frame for one in prepared]),
            [one.prompt for one in prepared],
            [one.frame_size for one in prepared],
        )
        return [
            self.mask_result(one, mask, iou)
            for one, mask, iou in zip(prepared, logits[:, 0], ious[:, 0], strict=True)
        ]

    def mask_result(self, one: PreparedImage, logits: Tensor, iou: float) -> MaskResult:
        """Return the mask of one (s, s) map of logits, at the size of the image."""
        mask = self.sam2.upsample(logits[None], *one.frame_size)[0]
        stability = stability_score(logits.cpu().numpy(), self.sam2.predictor.mask_threshold)
        full = paste_region(mask, one.region, one.height, one.width)
        return MaskResult(full, float(iou), float(stability), one.prompt_text)

    def ask_box(self, box: np.ndarray, height: int, width: int) -> tuple[Region, Prompt, str]:
        """Return what `ask` returns for a box x0, y0, x1, y1 in pixels of the image.

        SAM2 sees `segment.zoom` times the box, cut at the borders of the image, and gets the
        corners of the box and, with `segment.box_as_mask`, also a mask prompt.
        """
        region = zoom_region(box, self.params.zoom, width, height)
        x0, y0, x1, y1 = region
        inner = np.asarray(box, np.float32) - np.array([x0, y0, x0, y0], np.float32)
        drawn = None
        if self.params.box_as_mask:
            drawn = draw_box_prompt(inner, y1 - y0, x1 - x0, self.sam2.mask_prompt_size)
        text = "box " + ",".join(f"{v:g}" for v in np.asarray(box, float).round(1))
        if region != (0, 0, width, height):
            text += f" on {x0},{y0},{x1},{y1}"
        return region, Prompt.box(inner, drawn), text


def crop_region(image: np.ndarray, region: Region) -> np.ndarray:
    """Return the part of an image inside a region, contiguous."""
    x0, y0, x1, y1 = region
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def paste_region(mask: np.ndarray, region: Region, height: int, width: int) -> np.ndarray:
    """Return the mask of a region as a bool (height, width) mask that is False elsewhere."""
    x0, y0, x1, y1 = region
    if mask.shape == (height, width):
        return mask
    full = np.zeros((height, width), dtype=bool)
    full[y0:y1, x0:x1] = mask
    return full
