"""Prompt strategies: how SAM2 is asked for the mask of an image.

To add one, write a subclass of `Strategy`; it is registered by its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError, PipelineError
from pipeline.models.prompts import draw_box_prompt
from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.quality import border_share, bounding_box, stability_score

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image; x1 and y1 exclusive."""
NMS_IOU = 0.7
"""Two masks with a larger IoU are the same object (as in SAM's automatic mask generator)."""
KEEP_SHARE = 0.9
"""Masks that score at least this share of the best score are merged with it (e.g. two lungs)."""
MAX_MERGED = 4
DECODER_BATCH = 256
"""Prompts per pass of the decoder, to bound its memory."""


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
        truth: bool (h, w) the mask itself, of strategies that run no model.
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


STRATEGIES: dict[str, type[Strategy]] = {}
"""All strategies by name."""


class Strategy:
    """How SAM2 is asked for the mask of an image. Subclasses set `name` and override `ask`.

    A strategy never sees label, split, path or id of an image.

    Args:
        params: the segment section of params.yaml.
        models: the models that `requires` names.

    Attributes:
        parameters: names of the parameters that decide the mask.
        columns: columns of the manifest that decide the mask, besides the image itself.
        uses_truth: whether the ground-truth mask decides it.
        requires: fields of `Models` that must be set.
        version: incremented when the same parameters give other masks than before.
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()
    uses_truth: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("sam2",)
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        STRATEGIES[cls.name] = cls

    def __init__(self, params: SegmentParams, models: Models):
        self.params = params
        self.sam2 = models.sam2

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the masks besides images and models; part of the store's identity."""
        used = {name: getattr(self.params, name) for name in self.parameters}
        return {"strategy": self.name, "version": self.version, **used}

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


class Salient(Strategy):
    """No prompt: SAM2 segments what it takes for the object (an empty sparse embedding)."""

    name = "salient"


class SalientRefine(Strategy):
    """`salient`, then `box` (with its mask prompt and zoom) around the mask that was found.

    An empty first mask is the result, since there is no box to refine.
    """

    name = "salient-refine"
    parameters = ("box_as_mask", "zoom")

    def prepare(self, image, columns, truth=None):
        one = super().prepare(image, columns)
        one.image = image
        return one

    def segment(self, prepared):
        results = super().segment(prepared)
        second: dict[int, PreparedImage] = {}
        for i, (one, first) in enumerate(zip(prepared, results, strict=True)):
            box = bounding_box(first.mask)
            if box is None:
                continue
            region, prompt, text = self.ask_box(box, one.height, one.width)
            frame = self.sam2.preprocess(crop_region(one.image, region))
            text = f"salient, then {text}"
            second[i] = replace(one, region=region, frame=frame, prompt=prompt, prompt_text=text)
        if second:
            refined = super().segment(list(second.values()))
            for i, mask in zip(second, refined, strict=True):
                results[i] = mask
        return results


class Box(Strategy):
    """The box of the manifest: its corners and, optionally, SAM2's mask prompt, on a crop."""

    name = "box"
    columns = ("box",)
    parameters = ("box_as_mask", "zoom")

    def ask(self, columns, height, width):
        return self.ask_box(parse_box(columns["box"], width, height), height, width)


class CenterBox(Strategy):
    """A box in the middle of every image, where the object is in most medical images."""

    name = "center-box"
    parameters = ("center_box", "box_as_mask", "zoom")

    def ask(self, columns, height, width):
        return self.ask_box(center_box(width, height, self.params.center_box), height, width)


class Points(Strategy):
    """Clicks of the manifest on the object (label 1) and the background (label 0)."""

    name = "points"
    columns = ("points",)

    def ask(self, columns, height, width):
        points, labels = parse_points(columns["points"], width, height)
        text = "points " + ";".join(
            f"{x:g},{y:g},{label}" for (x, y), label in zip(points, labels, strict=True)
        )
        return (0, 0, width, height), Prompt(points, labels), text


class Manifest(Strategy):
    """Ground-truth masks, from `mask_path` of the manifest: the ceiling ablation.

    An image without a mask file fails: a missing mask does not mean that there is no region. A mask
    file that is all black says so, and gives an `empty` mask.
    """

    name = "manifest"
    uses_truth = True
    requires = ()

    def prepare(self, image, columns, truth=None):
        height, width = image.shape[:2]
        if truth is None:
            raise PipelineError(
                "no ground-truth mask in the manifest",
                remedy="fill in its mask_path, or choose another segment.prompt",
            )
        return PreparedImage(height, width, (0, 0, width, height), None, truth=truth)

    def segment(self, prepared):
        return [MaskResult(one.truth, math.nan, math.nan, self.name) for one in prepared]


class Full(Manifest):
    """A mask of ones, so its status is `full`: the ablation without a mask (x * 1 = x)."""

    name = "full"
    uses_truth = False

    def prepare(self, image, columns, truth=None):
        return super().prepare(image, columns, np.ones(image.shape[:2], bool))


class Auto(Strategy):
    """Automatic masks similar to SAM's generator, with a prior for one salient region.

    Each of grid x grid clicks gives three masks. The score of a mask is predicted IoU x stability
    x prior. The prior is (1 - share of the image border that the mask covers)^2, since background
    masks touch the border, and 0 outside the area limits, which removes specks and full-frame
    masks. After non-maximum suppression the best mask and those nearly as good are merged.
    """

    name = "auto"
    parameters = ("grid", "min_area", "max_area")

    def fingerprint(self) -> dict[str, Any]:
        fixed = {"nms_iou": NMS_IOU, "keep_share": KEEP_SHARE, "max_merged": MAX_MERGED}
        return super().fingerprint() | fixed

    def segment(self, prepared: list[PreparedImage]) -> list[MaskResult]:
        embedding = self.sam2.embed([one.frame for one in prepared])
        clicks = self.params.grid**2
        per_pass = max(1, DECODER_BATCH // clicks)
        results = []
        for start in range(0, len(prepared), per_pass):
            part = prepared[start : start + per_pass]
            prompts = [prompt for one in part for prompt in self.clicks(one)]
            sizes = [one.frame_size for one in part for _ in range(clicks)]
            index = [start + i for i in range(len(part)) for _ in range(clicks)]
            logits, ious = self.sam2.decode(embedding, prompts, sizes, index=index, multimask=True)
            for i, one in enumerate(part):
                own = slice(i * clicks, (i + 1) * clicks)
                results.append(self.merge(one, logits[own].flatten(0, 1), ious[own].ravel()))
        return results

    def clicks(self, one: PreparedImage) -> list[Prompt]:
        """Return one click in the middle of each cell of the grid."""
        middles = (np.arange(self.params.grid, dtype=np.float32) + 0.5) / self.params.grid
        label = np.ones(1, np.int32)
        return [
            Prompt(np.array([[x * one.width, y * one.height]], np.float32), label)
            for y in middles
            for x in middles
        ]

    def merge(self, one: PreparedImage, logits: Tensor, ious: np.ndarray) -> MaskResult:
        """Merge the best of k candidate masks.

        Args:
            one: the image.
            logits: float32 (k, s, s).
            ious: float32 (k,) predicted IoU.
        """
        threshold = self.sam2.predictor.mask_threshold
        low_res = logits.cpu().numpy()
        masks, stability = low_res > threshold, stability_score(low_res, threshold)
        scores = ious * stability * prior(masks, self.params.min_area, self.params.max_area)
        chosen = choose(masks, scores)
        text = f"auto {self.params.grid}x{self.params.grid}"
        if not chosen:
            empty = np.zeros((one.height, one.width), bool)
            return MaskResult(empty, 0.0, 0.0, f"{text}: no mask")
        full = self.sam2.upsample(logits[chosen], one.height, one.width).any(axis=0)
        return MaskResult(
            full,
            float(ious[chosen].mean()),
            float(stability[chosen].mean()),
            f"{text}: {len(chosen)} merged",
        )


def prior(masks: np.ndarray, min_area: float, max_area: float) -> np.ndarray:
    """Return how likely each bool (k, h, w) mask is an object, not the background; (k,)."""
    area = masks.mean(axis=(-2, -1))
    return np.where((area >= min_area) & (area <= max_area), (1 - border_share(masks)) ** 2, 0.0)


def choose(masks: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return the best mask and those with nearly its score, after non-maximum suppression.

    Args:
        masks: bool (k, h, w).
        scores: (k,); a mask with score 0 is never chosen.

    Returns:
        Indices, best first; ties go to the earlier mask.
    """
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    areas = flat.sum(axis=1)
    best = scores.max(initial=0.0)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0 or scores[i] < KEEP_SHARE * best or len(kept) == MAX_MERGED:
            break
        overlap = flat[kept] @ flat[i]
        if (overlap <= NMS_IOU * (areas[kept] + areas[i] - overlap)).all():
            kept.append(int(i))
    return kept


def strategy_class(params: SegmentParams) -> type[Strategy]:
    """Return the strategy that `segment.prompt` names.

    Raises:
        ConfigError: no strategy has this name.
    """
    try:
        return STRATEGIES[params.prompt]
    except KeyError:
        raise ConfigError(
            f"segment.prompt: no strategy is called {params.prompt!r}",
            remedy=f"choose one of {', '.join(STRATEGIES)}",
        ) from None


def parse_box(text: str, width: int, height: int) -> np.ndarray:
    """Read a box of the manifest, "x0,y0,x1,y1" in pixels of the upright image.

    Returns:
        float32 (4,), clipped to the image.

    Raises:
        PipelineError: it is missing, not four numbers, or has no area inside the image.
    """
    try:
        box = np.array([float(v) for v in text.split(",")], dtype=np.float32)
        inside = np.clip(box, 0, np.array([width, height, width, height], dtype=np.float32))
    except ValueError:  # not numbers, or not four of them
        box = inside = np.full(4, np.nan, np.float32)
    if not (np.isfinite(box).all() and inside[2] > inside[0] and inside[3] > inside[1]):
        raise PipelineError(
            f"no box in the manifest with an area inside the {width} x {height} image, "
            f"but {text!r}",
            remedy="write x0,y0,x1,y1 (pixels, upright image) into the manifest's box column",
        )
    return inside


def parse_points(text: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Read clicks of the manifest, "x,y,1;x,y,0": 1 = on the object, 0 = on the background.

    Returns:
        float32 (n, 2) x and y in pixels; int32 (n,) labels.

    Raises:
        PipelineError: there are none, or one is not x,y,label inside the image.
    """
    try:
        rows = [[float(v) for v in click.split(",")] for click in text.split(";") if click.strip()]
        x, y, label = np.array(rows, dtype=np.float32).T
    except ValueError:  # none, or one that is not three numbers
        x = y = label = np.array([np.nan])
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    if not (inside & np.isin(label, (0, 1))).all():
        raise PipelineError(
            f"no points in the manifest inside the {width} x {height} image, but {text!r}",
            remedy='write clicks (x, y, 1 on the object or 0 on the background) such as "120,80,1;'
            "10,10,0\" into the manifest's points column",
        )
    return np.stack([x, y], axis=1), label.astype(np.int32)


def center_box(width: int, height: int, share: float) -> np.ndarray:
    """Return the box in the middle of the image that spans `share` of each side; float32 (4,)."""
    margin = (1 - share) / 2
    box = [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]
    return np.array(box, dtype=np.float32)


def zoom_region(box: Sequence[float] | np.ndarray, zoom: float, width: int, height: int) -> Region:
    """Return the region of `zoom` times the box around its centre, cut at the image borders.

    Args:
        box: x0, y0, x1, y1 in pixels.
        zoom: factor for both sides; 0 means the whole image, values below 1 count as 1.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    if not zoom:
        return 0, 0, width, height
    x0, y0, x1, y1 = (float(v) for v in box)
    grow = max(zoom, 1.0) / 2
    cx, cy, half_w, half_h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) * grow, (y1 - y0) * grow
    left, top = max(0, math.floor(cx - half_w)), max(0, math.floor(cy - half_h))
    right, bottom = min(width, math.ceil(cx + half_w)), min(height, math.ceil(cy + half_h))
    return left, top, right, bottom


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
