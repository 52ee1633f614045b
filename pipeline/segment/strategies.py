"""Prompt strategies: how SAM2 is asked for the mask of an image.

To add one, write a subclass of `Strategy`; it is registered by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError, PipelineError
from pipeline.models import draw_box_prompt
from pipeline.segment.guide import Guide
from pipeline.segment.predictor import BatchPredictor, Frame, Prompt
from pipeline.segment.quality import border_share, bounding_box, stability_score
from pipeline.store import MaskRow

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image; x1 and y1 exclusive."""
NMS_IOU = 0.7  # masks with a larger IoU are the same object (as in SAM's mask generator)
KEEP_SHARE = 0.9  # masks of this share of the best score are merged with it (e.g. two lungs)
MAX_MERGED = 4
KEPT = 8  # candidates of an image that are ranked and kept
HELD_PROMPTS = 256  # prompts whose masks are held at once, to bound memory


@dataclass
class PreparedImage:
    """An image, uint8 (h, w, 3), and its region that SAM2 sees: `frame` is that region,
    preprocessed or embedded, and `prompt` is in pixels of it; `prompt_text` is for the store."""

    image: np.ndarray
    region: Region
    frame: Frame
    prompt: Prompt
    prompt_text: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.image.shape[:2]

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

    Attributes:
        parameters: names of the parameters that decide the mask.
        columns: columns of the manifest that decide the mask, besides the image itself.
        uses_truth: whether the ground-truth mask decides it.
        uses_sam2: whether it needs the model.
        uses_words: whether it needs the words of the dataset, in `self.guide`.
        uses_clip: whether it needs the profile's CLIP there too.
        keeps_candidates: whether `segment` takes stored `Candidates` in place of images.
        version: incremented when the same parameters give other masks than before.
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()
    uses_truth: ClassVar[bool] = False
    uses_sam2: ClassVar[bool] = True
    uses_words: ClassVar[bool] = False
    uses_clip: ClassVar[bool] = False
    keeps_candidates: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        STRATEGIES[cls.name] = cls

    def __init__(
        self, params: SegmentParams, sam2: BatchPredictor | None, guide: Guide | None = None
    ):
        self.params, self.sam2, self.guide = params, sam2, guide

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the masks besides images and models; part of the store's identity."""
        used = {name: getattr(self.params, name) for name in self.parameters}
        words = self.guide.fingerprint if self.uses_words else {}
        return {"strategy": self.name, "version": self.version, **used, **words}

    def ask(
        self, columns: Mapping[str, Any], height: int, width: int
    ) -> tuple[Region, Prompt, str]:
        """Return the region of an image that SAM2 sees, the prompt in it, and its description;
        `columns` are the values of `self.columns` of this image."""
        return (0, 0, width, height), Prompt(), self.name

    def prepare(
        self, image: np.ndarray, columns: Mapping[str, Any], truth: np.ndarray | None = None
    ) -> PreparedImage:
        """Preprocess an image, uint8 (h, w, 3). Called in loader threads.

        `columns` are the values of `self.columns` of this image; `truth`, bool (h, w), is given
        only to strategies with `uses_truth`.
        """
        return self.prepare_region(image, *self.ask(columns, *image.shape[:2]))

    def prepare_region(
        self, image: np.ndarray, region: Region, prompt: Prompt, text: str
    ) -> PreparedImage:
        """Preprocess the region of an image that SAM2 sees; arguments as `ask` returns them."""
        x0, y0, x1, y1 = region
        frame = self.sam2.preprocess(np.ascontiguousarray(image[y0:y1, x0:x1]))
        return PreparedImage(image, region, frame, prompt, text)

    def segment(self, prepared: list[PreparedImage]) -> list[MaskRow]:
        """Find the masks of a batch with one pass of the encoder and one of the decoder; rows have
        mask, prompt, and SAM2's predicted IoU and stability (NaN without a model)."""
        if not prepared:
            return []
        logits, ious = self.sam2.decode(
            self.sam2.embed([one.frame for one in prepared]),
            [one.prompt for one in prepared],
            [one.frame_size for one in prepared],
        )
        return self.rows(prepared, logits, ious)

    def rows(self, prepared: list[PreparedImage], logits: Tensor, ious: Any) -> list[MaskRow]:
        """Return the first mask of each image, at the place of its region: logits (n, m, s, s),
        predicted IoU (n, m)."""
        threshold, rows = self.sam2.predictor.mask_threshold, []
        for one, low_res, iou in zip(prepared, logits[:, 0], ious[:, 0], strict=True):
            x0, y0, x1, y1 = one.region
            mask = np.zeros(one.size, bool)
            mask[y0:y1, x0:x1] = self.sam2.upsample(low_res[None], *one.frame_size)[0]
            stability = float(stability_score(low_res.cpu().numpy(), threshold))
            rows.append(mask_row(mask, one.prompt_text, float(iou), stability))
        return rows

    def ask_box(self, box: np.ndarray, height: int, width: int) -> tuple[Region, Prompt, str]:
        """Return what `ask` returns for a box x0, y0, x1, y1 in pixels of the image.

        SAM2 sees `segment.zoom` times the box around its centre, cut at the borders of the image
        (0 means the whole image, values below 1 count as 1), and gets the corners of the box and,
        with `segment.box_as_mask`, also a mask prompt.
        """
        x0, y0, x1, y1 = region = 0, 0, width, height
        if self.params.zoom:
            x0, y0, x1, y1 = (float(v) for v in box)
            grow = max(self.params.zoom, 1.0) / 2
            half_w, half_h = (x1 - x0) * grow, (y1 - y0) * grow
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            x0, y0 = max(0, math.floor(cx - half_w)), max(0, math.floor(cy - half_h))
            x1, y1 = min(width, math.ceil(cx + half_w)), min(height, math.ceil(cy + half_h))
            region = x0, y0, x1, y1
        inner = np.asarray(box, np.float32) - np.array([x0, y0, x0, y0], np.float32)
        drawn = None
        if self.params.box_as_mask:
            drawn = draw_box_prompt(inner, y1 - y0, x1 - x0, self.sam2.predictor.mask_prompt_size)
        text = "box " + ",".join(f"{v:g}" for v in np.asarray(box, float).round(1))
        if region != (0, 0, width, height):
            text += f" on {x0},{y0},{x1},{y1}"
        return region, Prompt.box(inner, drawn), text


def mask_row(mask: np.ndarray, prompt: str, iou: float = nan, stability: float = nan) -> MaskRow:
    """Return what a strategy found; the mapper adds the rest of the row."""
    return MaskRow("", mask, prompt=prompt, predicted_iou=iou, stability=stability)


class Salient(Strategy):
    """No prompt: SAM2 segments what it takes for the object (an empty sparse embedding)."""

    name = "salient"


class SalientRefine(Strategy):
    """`salient`, then `box` around the mask that was found; an empty mask has no box to refine."""

    name = "salient-refine"
    parameters = ("box_as_mask", "zoom")

    def segment(self, prepared):
        results = super().segment(prepared)
        second: dict[int, PreparedImage] = {}
        for i, (one, first) in enumerate(zip(prepared, results, strict=True)):
            if (box := bounding_box(first.mask)) is not None:
                region, prompt, text = self.ask_box(box, *one.size)
                text = f"salient, then {text}"
                if region == one.region:
                    second[i] = replace(one, prompt=prompt, prompt_text=text)
                else:
                    second[i] = self.prepare_region(one.image, region, prompt, text)
        for i, refined in zip(second, super().segment([*second.values()]), strict=True):
            results[i] = refined
        return results


class NoPrompt(Strategy):
    """Nothing is asked: an adapted SAM2 knows what to look for."""

    name = "no-prompt"


class Mirrored(NoPrompt):
    """`no-prompt`, averaged over the image and its mirror image."""

    name = "mirrored"
    shrink: ClassVar[tuple[float, ...]] = (1.0,)
    """The image is shown at 1 / these of its size; what is outside continues its border."""

    def segment(self, prepared):
        if not prepared:
            return []
        sam2 = BatchPredictor(self.sam2.predictor)  # of pixels, whatever is stored or known
        frames = torch.stack(
            [f if isinstance(f := p.frame, Tensor) else sam2.preprocess(p.image) for p in prepared]
        )
        asked = [Prompt()] * len(prepared), [one.size for one in prepared]
        found = []
        for y in self.shrink:
            for x in (y, -y):
                logits, ious = sam2.decode(sam2.embed([*stretched(frames, x, y)]), *asked)
                found.append((stretched(logits, 1 / x, 1 / y), torch.from_numpy(ious)))
        logits, ious = (torch.stack(of).mean(0) for of in zip(*found, strict=True))
        return self.rows(prepared, logits, ious)


class Averaged(Mirrored):
    """`mirrored`, averaged also over smaller copies of both."""

    name = "averaged"
    shrink = (1.0, 1.25)


def stretched(maps: Tensor, x: float, y: float) -> Tensor:
    """Resample maps, float32 (n, c, h, w), about their middle: what is at (x u, y v) comes to
    (u, v), for u and v from -1 to 1; outside, the border goes on. A negative x mirrors."""
    turn = torch.tensor([[x, 0.0, 0.0], [0.0, y, 0.0]], device=maps.device).expand(len(maps), 2, 3)
    grid = F.affine_grid(turn, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


class Box(Strategy):
    """The box of the manifest: its corners and, optionally, SAM2's mask prompt, on a crop."""

    name = "box"
    columns = ("box",)
    parameters = ("box_as_mask", "zoom")

    def ask(self, columns, height, width):
        box = [float(v) for v in given(columns, "box").split(",")]
        return self.ask_box(np.array(box, np.float32), height, width)


class CenterBox(Strategy):
    """A box in the middle of every image, where the object is in most medical images."""

    name = "center-box"
    parameters = ("center_box", "box_as_mask", "zoom")

    def ask(self, columns, height, width):
        margin = (1 - self.params.center_box) / 2
        box = [width * margin, height * margin, width * (1 - margin), height * (1 - margin)]
        return self.ask_box(np.array(box, np.float32), height, width)


class Points(Strategy):
    """Clicks of the manifest on the object (label 1) and the background (label 0)."""

    name = "points"
    columns = ("points",)

    def ask(self, columns, height, width):
        clicks = [click.split(",") for click in given(columns, "points").split(";")]
        points = np.array([click[:2] for click in clicks], np.float32)
        labels = np.array([click[2] for click in clicks], np.int32)
        shown = zip(points, labels, strict=True)
        text = "points " + ";".join(f"{x:g},{y:g},{label}" for (x, y), label in shown)
        return (0, 0, width, height), Prompt(points, labels), text


def given(columns: Mapping[str, Any], name: str) -> Any:
    """Return the box, clicks or mask of an image, whose form `read_manifest` has checked."""
    if (value := columns[name]) is None or (isinstance(value, str) and not value):
        remedy = f"fill in the column {name}, or choose another segment.prompt"
        raise PipelineError(f"no {name} in the manifest", remedy=remedy)
    return value


class Manifest(Strategy):
    """Ground-truth masks, from `mask_path` of the manifest: the ceiling ablation.

    An image without a mask file fails: a missing mask does not mean that there is no region, as
    one that is all black does.
    """

    name = "manifest"
    uses_truth = True
    uses_sam2 = False

    def prepare(self, image, columns, truth=None):
        return given({"mask_path": truth}, "mask_path")

    def segment(self, prepared):
        return [mask_row(mask, self.name) for mask in prepared]


class Full(Manifest):
    """A mask of ones, so its status is `full`: the ablation without a mask (x * 1 = x)."""

    name = "full"
    uses_truth = False

    def prepare(self, image, columns, truth=None):
        return np.ones(image.shape[:2], bool)


@dataclass
class Candidates:
    """Masks that SAM2 proposes for an image, best first.

    Attributes:
        size: height and width of the image, pixels.
        scores: float32 (k,): predicted IoU x stability x prior, by which they are ranked.
        ious, stability: float32 (k,).
        masks: returns the masks of some ranks, bool (n, height, width).
        image, low_res: the image, uint8 (height, width, 3), and its candidates at SAM2's
            resolution, bool (k, s, s); None where the candidates come from a store.
    """

    size: tuple[int, int]
    scores: np.ndarray
    ious: np.ndarray
    stability: np.ndarray
    masks: Callable[[Sequence[int]], np.ndarray]
    image: np.ndarray | None = None
    low_res: np.ndarray | None = None


class Auto(Strategy):
    """Automatic masks similar to SAM's generator, with a prior for one salient region.

    Each of grid x grid clicks gives three masks, which score predicted IoU x stability x prior.
    After non-maximum suppression the best mask and those nearly as good are merged.
    """

    name = "auto"
    parameters = ("grid", "min_area", "max_area")
    keeps_candidates = True
    most: ClassVar[int] = KEPT
    """Candidates that `pick` chooses from."""

    def fingerprint(self) -> dict[str, Any]:
        fixed = {"nms_iou": NMS_IOU, "keep_share": KEEP_SHARE, "max_merged": MAX_MERGED}
        return super().fingerprint() | fixed

    def proposal(self) -> dict[str, Any]:
        """Return what decides the candidates besides images and models, whatever is chosen."""
        used = {name: getattr(self.params, name) for name in Auto.parameters}
        return {"version": Auto.version, "nms_iou": NMS_IOU, "most": self.most, **used}

    def segment(self, prepared):
        """As `Strategy.segment`; takes stored `Candidates` too."""
        new = self.candidates([one for one in prepared if isinstance(one, PreparedImage)])
        return [self.merge(one if isinstance(one, Candidates) else next(new)) for one in prepared]

    def candidates(self, prepared: list[PreparedImage]) -> Iterator[Candidates]:
        """Yield what SAM2 proposes for each image of a batch."""
        maps = self.sam2.embed([one.frame for one in prepared]) if prepared else []
        n = self.params.grid**2
        per_pass = max(1, HELD_PROMPTS // n)
        for start in range(0, len(prepared), per_pass):
            part = prepared[start : start + per_pass]
            prompts = [prompt for one in part for prompt in self.clicks(*one.size)]
            sizes = [one.size for one in part for _ in range(n)]
            index = [start + i for i in range(len(part)) for _ in range(n)]
            logits, ious = self.sam2.decode(maps, prompts, sizes, index=index, multimask=True)
            parts = zip(part, logits.split(n), np.split(ious, len(part)), strict=True)
            yield from (self.rank(one, k.flatten(0, 1), iou.ravel()) for one, k, iou in parts)

    def clicks(self, height: int, width: int) -> list[Prompt]:
        """Return one click in the middle of each cell of the grid."""
        middles = (np.arange(self.params.grid, dtype=np.float32) + 0.5) / self.params.grid
        points = [[x * width, y * height] for y in middles for x in middles]
        return [Prompt(np.array([xy], np.float32), np.ones(1, np.int32)) for xy in points]

    def rank(self, one: PreparedImage, logits: Tensor, ious: np.ndarray) -> Candidates:
        """Rank k masks of an image: logits float32 (k, s, s), predicted IoU (k,)."""
        threshold = self.sam2.predictor.mask_threshold
        low_res = logits.cpu().numpy()
        masks, stability = low_res > threshold, stability_score(low_res, threshold)
        scores = ious * stability * prior(masks, self.params.min_area, self.params.max_area)
        best = ranked(masks, scores, self.most)
        kept = logits[best]
        figures = scores[best], ious[best], stability[best]
        full = lambda ranks: self.sam2.upsample(kept[list(ranks)], *one.size)  # noqa: E731
        return Candidates(one.size, *figures, full, one.image, masks[best])

    def merge(self, found: Candidates) -> MaskRow:
        """Merge the candidates that `pick` returns."""
        chosen = self.pick(found) if len(found.scores) else []
        text = f"{self.name} {self.params.grid}x{self.params.grid}"
        if not chosen:
            return mask_row(np.zeros(found.size, bool), f"{text}: no mask", 0.0, 0.0)
        mask = found.masks(chosen).any(axis=0)
        scores = float(found.ious[chosen].mean()), float(found.stability[chosen].mean())
        return mask_row(mask, f"{text}: {len(chosen)} merged", *scores)

    def pick(self, found: Candidates) -> list[int]:
        """Return the ranks of the candidates that are merged; there is at least one candidate."""
        scores = found.scores[:MAX_MERGED]
        return [k for k, score in enumerate(scores) if score >= KEEP_SHARE * scores[0]]


class Union(Auto):
    """The union of the best of `auto`'s candidates, however much worse than the first."""

    name = "union"
    parameters = (*Auto.parameters, "union")

    def pick(self, found):
        return list(range(min(self.params.union, len(found.scores))))


def prior(masks: np.ndarray, min_area: float, max_area: float) -> np.ndarray:
    """Return how likely each mask, bool (k, h, w), is an object: (1 - share of the border that it
    covers)^2, since background touches the border; 0 for specks and full frames."""
    area = masks.mean(axis=(-2, -1))
    return np.where((area >= min_area) & (area <= max_area), (1 - border_share(masks)) ** 2, 0.0)


def ranked(masks: np.ndarray, scores: np.ndarray, most: int) -> list[int]:
    """Return the best of masks, bool (k, h, w), after non-maximum suppression: at most `most`
    indices, best first; ties go to the earlier mask, and score 0 is never chosen."""
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    areas = flat.sum(axis=1)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0 or len(kept) == most:
            break
        overlap = flat[kept] @ flat[i]
        if (overlap <= NMS_IOU * (areas[kept] + areas[i] - overlap)).all():
            kept.append(int(i))
    return kept


def strategy_class(params: SegmentParams) -> type[Strategy]:
    """Return the strategy that `segment.prompt` names; ConfigError if there is none."""
    if params.prompt not in STRATEGIES:
        message = f"segment.prompt: no strategy is called {params.prompt!r}"
        raise ConfigError(message, remedy=f"choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[params.prompt]


from pipeline.segment import guided  # noqa: E402, F401  registers its strategies
