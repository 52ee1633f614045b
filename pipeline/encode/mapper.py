"""CLIP as a mapper of the stage engine: an image and its mask in, features of all views out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pipeline.config import EncodeParams
from pipeline.devices import one_thread_here
from pipeline.encode.fill import fill_colour
from pipeline.encode.geometry import make_geometry
from pipeline.encode.pixels import normalise
from pipeline.encode.views import VIEWS, Picture, check_views
from pipeline.engine import WorkItem
from pipeline.errors import PipelineError
from pipeline.images import read_image, read_mask, reader_rules
from pipeline.segment.quality import effective_mask
from pipeline.store import FeatureRow
from pipeline.store.layout import mask_crc

if TYPE_CHECKING:
    from pipeline.models import ClipModel

MAPPER_VERSION = 1
"""Raised when the same model and parameters give other features than before."""


class Masks(Protocol):
    """What the mapper reads masks from: a MaskStore, or a dict."""

    def __getitem__(self, image_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Shown:
    """What CLIP is shown of one image.

    Args:
        pixels: float32 (k, 3, s, s), each different view once.
        rows: for each view its row of `pixels`, -1 for a view that this image does not have.
        status: of the mask.
    """

    pixels: torch.Tensor
    rows: tuple[int, ...]
    status: str


class EncodeMapper:
    """I = E_v(view of x and m), for run_stage.

    Args:
        params: the encode section of params.yaml.
        clip: from `pipeline.models.load_clip`.
        masks: masks by image_id, bool (h, w).
        forward_batch: pictures in one forward pass, to bound memory whatever the number of views.
    """

    def __init__(
        self,
        params: EncodeParams,
        clip: ClipModel,
        masks: Masks,
        *,
        forward_batch: int = 32,
    ):
        self.params = params
        self.views = check_views(params.views)
        self.clip = clip
        self.masks = masks
        self.forward_batch = forward_batch
        self.padding = fill_colour(params.fill, clip.mean)
        self.identity: dict[str, Any] = {
            "stage": "encode",
            "mapper_version": MAPPER_VERSION,
            "reader": reader_rules(),
            "model": {
                "fingerprint": clip.fingerprint,
                "precision": clip.precision,
                "mean": [float(v) for v in clip.mean],
                "std": [float(v) for v in clip.std],
                "image_size": clip.image_size,
                "interpolation": clip.interpolation,
            },
            "geometry": params.geometry,
            "views": list(self.views),
            "fill": params.fill,
            "crop_margin": params.crop_margin,
            "unusable_mask": "whole image",
            "tokens": clip.tokens if params.tokens else 0,
        }

    def load(self, item: WorkItem) -> Shown:
        """Read an image, its mask and (for the oracle) its ground truth; make all views.

        `item.row` has, beside the manifest's columns: `mask_status`, `mask_crc` and `mask_problem`
        (from the mask store) and `truth_file` ("" = none). Called in loader threads.

        Raises:
            PipelineError: there is no mask for this image; it is never taken for an empty one.
        """
        one_thread_here()
        row = item.row
        if row["mask_problem"]:
            raise PipelineError(row["mask_problem"], remedy=row["mask_remedy"])
        image = read_image(item.path, item.frame)
        mask = self.masks[item.image_id]
        if row.get("mask_crc") not in (None, mask_crc(mask)):
            raise PipelineError(
                "its mask was made again while encode was at work",
                path=item.path,
                remedy="run encode again",
            )
        if mask.shape != image.shape[:2]:
            raise PipelineError(
                f"its mask is {mask.shape[1]} x {mask.shape[0]}, "
                f"the image {image.shape[1]} x {image.shape[0]}",
                path=item.path,
                remedy=row["mask_remedy"],
            )
        truth = None
        if row["truth_file"]:
            truth = read_mask(row["truth_file"], item.frame, shape=image.shape[:2])
        return self.show(image, mask, row["mask_status"], f"{row['sha256']}#{item.frame}", truth)

    def show(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        status: str = "ok",
        seed: str = "",
        truth: np.ndarray | None = None,
    ) -> Shown:
        """Make the views of one image, each brought to the model's frame.

        Views are made at the image's own size and resized afterwards, so that x * m is exact.
        """
        picture = Picture(
            image=image,
            mask=effective_mask(mask, status),
            seed=seed,
            truth=truth,
            fill=self.params.fill,
            mean=self.clip.mean,
            margin=self.params.crop_margin,
        )
        frames: list[np.ndarray] = []
        rows: list[int] = []
        known: dict[bytes, int] = {}
        for name in self.views:
            seen = VIEWS[name](picture)
            if seen is None:
                rows.append(-1)
                continue
            plan = make_geometry(self.params.geometry, *seen.shape[:2], self.clip.image_size)
            frame = plan.apply(seen, self.padding, self.clip.interpolation)
            # With an unusable mask most views are the whole image: show it to the model once.
            row = known.setdefault(frame.tobytes(), len(frames))
            if row == len(frames):
                frames.append(frame)
            rows.append(row)
        size = self.clip.image_size
        stack = np.stack(frames) if frames else np.zeros((0, size, size, 3), np.uint8)
        return Shown(normalise(stack, self.clip.mean, self.clip.std), tuple(rows), status)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Shown]) -> list[FeatureRow]:
        """Encode all views of a batch of images."""
        encoded = self.encode(loaded)
        return [
            FeatureRow(
                image_id=item.image_id,
                features=features,
                tokens=tokens,
                mask_status=shown.status,
                mask_crc=item.row.get("mask_crc", -1),
                reason="" if shown.status == "ok" else f"mask {shown.status}: whole image used",
            )
            for item, shown, (features, tokens) in zip(items, loaded, encoded, strict=True)
        ]

    def encode(self, shown: Sequence[Shown]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Features float32 (view, d) of each image, and tokens (view, t, d) when they are kept.

        A view that an image does not have is NaN.
        """
        keep = self.params.tokens
        pixels = torch.cat([one.pixels for one in shown])
        features = [np.zeros((0, self.clip.embed_dim), np.float32)]
        tokens = [np.zeros((0, self.clip.tokens, self.clip.embed_dim), np.float32)]
        for part in pixels.split(self.forward_batch) if len(pixels) else ():
            if keep:
                embedded, patches = self.clip.encode_image(part, tokens=True)
                tokens.append(patches.cpu().numpy())
            else:
                embedded = self.clip.encode_image(part)
            features.append(embedded.cpu().numpy())
        pooled = _by_view(np.concatenate(features), shown)
        if not keep:
            return [(f, None) for f in pooled]
        return list(zip(pooled, _by_view(np.concatenate(tokens), shown), strict=True))


def _by_view(values: np.ndarray, shown: Sequence[Shown]) -> list[np.ndarray]:
    """Deal the rows of a flat batch out to images and views; NaN where a view is missing."""
    dealt, start = [], 0
    for one in shown:
        count = len(one.pixels)
        own = values[start : start + count]
        out = np.full((len(one.rows), *values.shape[1:]), np.nan, np.float32)
        for view, row in enumerate(one.rows):
            if row >= 0:
                out[view] = own[row]
        dealt.append(out)
        start += count
    return dealt


def encode_images(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    params: EncodeParams,
    clip: ClipModel,
    *,
    views: Sequence[str] | None = None,
    statuses: Sequence[str] | None = None,
    seeds: Sequence[str] | None = None,
    truths: Sequence[np.ndarray | None] | None = None,
) -> np.ndarray:
    """Features of images in memory, by the same code as the stage; one batch.

    Args:
        images: uint8 (h, w, 3) each.
        masks: bool (h, w) each.
        params: the encode section of params.yaml.
        clip: from `pipeline.models.load_clip`.
        views: instead of `params.views`.
        statuses: of the masks, "ok" | "empty" | "full"; default "ok".
        seeds: of the random view.
        truths: ground-truth masks for the oracle view.

    Returns:
        float32 (n, view, d).
    """
    if views is not None:
        params = params.model_copy(update={"views": tuple(views)})
    mapper = EncodeMapper(params, clip, {})
    n = len(images)
    shown = [
        mapper.show(*one)
        for one in zip(
            images,
            masks,
            statuses or ["ok"] * n,
            seeds or [""] * n,
            truths or [None] * n,
            strict=True,
        )
    ]
    return np.stack([features for features, _ in mapper.encode(shown)])
