"""I = E_v(x * m) as a mapper of the engine: an image and its mask in, features of all views out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.config import EncodeParams
from pipeline.encode.geometry import make_geometry
from pipeline.encode.views import VIEWS, ViewInput, check_views, fill_colour
from pipeline.engine import WorkItem
from pipeline.errors import PipelineError
from pipeline.images import read_image, read_mask, reader_rules
from pipeline.segment.quality import effective_mask
from pipeline.store import FeatureRow
from pipeline.store.layout import checksum

if TYPE_CHECKING:
    from pipeline.models import ClipModel

MAPPER_VERSION = 1
"""Incremented when the same model and parameters give other features than before."""


@dataclass(frozen=True)
class PreparedViews:
    """The views of one image, preprocessed.

    Args:
        pixels: float32 (k, 3, s, s), each distinct view once.
        index: for each view its position in `pixels`; -1 if the image does not have the view.
        status: of the mask.
    """

    pixels: torch.Tensor
    index: tuple[int, ...]
    status: str


class EncodeMapper:
    """Encodes views of images with CLIP.

    Args:
        params: the encode section of params.yaml.
        clip: from `pipeline.models.load_clip`.
        masks: bool (h, w) by image_id: a mask store or a dict.
        forward_batch: views per forward pass, to bound memory whatever their number.
    """

    def __init__(
        self,
        params: EncodeParams,
        clip: ClipModel,
        masks: Mapping[str, np.ndarray],
        *,
        forward_batch: int = 32,
    ):
        self.params = params
        self.views = check_views(params.views)
        self.clip = clip
        self.device = clip.device.type
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

    def load(self, item: WorkItem) -> PreparedViews:
        """Read an image, its mask and (for `oracle`) its ground truth; make all views.

        Besides the columns of the manifest `item.row` has `mask_status`, `mask_crc` and
        `mask_problem` (from the mask store) and `truth_file` ("" for none).

        Raises:
            PipelineError: there is no usable mask for this image; a missing mask is never taken
                for an empty one.
        """
        row = item.row
        if row["mask_problem"]:
            raise PipelineError(row["mask_problem"], remedy=row["mask_remedy"])
        image = read_image(item.path, item.frame)
        mask = self.masks[item.image_id]
        if row.get("mask_crc") not in (None, checksum(mask)):
            raise PipelineError(
                "its mask was replaced while encode was running",
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
        seed = f"{row['sha256']}#{item.frame}"
        return self.prepare(image, mask, row["mask_status"], seed, truth)

    def prepare(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        status: str = "ok",
        seed: str = "",
        truth: np.ndarray | None = None,
    ) -> PreparedViews:
        """Make the views of one image and preprocess them.

        Views are made at the size of the image and resized afterwards, so that x * m is exact.

        Args:
            image: uint8 (h, w, 3).
            mask: bool (h, w).
            status: of the mask, "ok" | "empty" | "full".
            seed: of the random view.
            truth: bool (h, w) ground truth for the oracle view.
        """
        source = ViewInput(
            image=image,
            mask=effective_mask(mask, status),
            seed=seed,
            truth=truth,
            fill=self.params.fill,
            mean=self.clip.mean,
            margin=self.params.crop_margin,
        )
        frames: list[np.ndarray] = []
        index: list[int] = []
        known: dict[bytes, int] = {}
        for name in self.views:
            view = VIEWS[name](source)
            if view is None:
                index.append(-1)
                continue
            plan = make_geometry(self.params.geometry, *view.shape[:2], self.clip.image_size)
            frame = plan.apply(view, self.padding, self.clip.interpolation)
            # With an unusable mask most views equal the whole image: encode it once.
            position = known.setdefault(frame.tobytes(), len(frames))
            if position == len(frames):
                frames.append(frame)
            index.append(position)
        size = self.clip.image_size
        stack = np.stack(frames) if frames else np.zeros((0, size, size, 3), np.uint8)
        return PreparedViews(normalise(stack, self.clip.mean, self.clip.std), tuple(index), status)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[PreparedViews]) -> list[FeatureRow]:
        """Encode all views of a batch of images."""
        encoded = self.encode(loaded)
        return [
            FeatureRow(
                image_id=item.image_id,
                features=features,
                tokens=tokens,
                mask_status=one.status,
                mask_crc=item.row.get("mask_crc", -1),
                reason="" if one.status == "ok" else f"mask {one.status}: whole image used",
            )
            for item, one, (features, tokens) in zip(items, loaded, encoded, strict=True)
        ]

    def encode(
        self, prepared: Sequence[PreparedViews]
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return for each image its features and its patch tokens.

        Returns:
            float32 (view, d) features; float32 (view, t, d) tokens, None if they are not kept. A
            view that an image does not have is NaN.
        """
        keep = self.params.tokens
        pixels = torch.cat([one.pixels for one in prepared])
        features = [np.zeros((0, self.clip.embed_dim), np.float32)]
        tokens = [np.zeros((0, self.clip.tokens, self.clip.embed_dim), np.float32)]
        for part in pixels.split(self.forward_batch) if len(pixels) else ():
            if keep:
                embedded, patches = self.clip.encode_image(part, tokens=True)
                tokens.append(patches.cpu().numpy())
            else:
                embedded = self.clip.encode_image(part)
            features.append(embedded.cpu().numpy())
        pooled = _split_by_view(np.concatenate(features), prepared)
        if not keep:
            return [(f, None) for f in pooled]
        return list(zip(pooled, _split_by_view(np.concatenate(tokens), prepared), strict=True))


def normalise(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scale frames to [0, 1], subtract the mean and divide by the standard deviation.

    The same operations in the same order as torchvision's ToTensor and Normalize, so the result
    is bit-equal to open_clip's own transform.

    Args:
        frames: uint8 (n, s, s, 3).
        mean: of the model, per channel.
        std: of the model, per channel.

    Returns:
        float32 (n, 3, s, s), contiguous.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float().div_(255)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
    return pixels.sub_(shift).div_(scale)


def _split_by_view(values: np.ndarray, prepared: Sequence[PreparedViews]) -> list[np.ndarray]:
    """Split the rows of a batch by image and view; NaN where an image does not have a view."""
    result, start = [], 0
    for one in prepared:
        count = len(one.pixels)
        own = values[start : start + count]
        out = np.full((len(one.index), *values.shape[1:]), np.nan, np.float32)
        for view, position in enumerate(one.index):
            if position >= 0:
                out[view] = own[position]
        result.append(out)
        start += count
    return result


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
    """Return the features of images in memory, computed as the stage does, in one batch.

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
    prepared = [
        mapper.prepare(*one)
        for one in zip(
            images,
            masks,
            statuses or ["ok"] * n,
            seeds or [""] * n,
            truths or [None] * n,
            strict=True,
        )
    ]
    return np.stack([features for features, _ in mapper.encode(prepared)])
