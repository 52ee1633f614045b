"""I = E_v(x * m) as a mapper of the engine: an image and its mask in, features of all views out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.config import EncodeParams
from pipeline.encode.geometry import choose_geometry, make_geometry
from pipeline.encode.views import BLUR_SHARE, VIEWS, ViewInput, fill_colour
from pipeline.errors import ConfigError, PipelineError
from pipeline.images import read_image, read_mask, reader_rules
from pipeline.models import ClipModel, TimmEncoder
from pipeline.segment.quality import effective_mask
from pipeline.store import FeatureRow, WorkItem
from pipeline.store.layout import checksum

MAPPER_VERSION = 1
"""Incremented when the same model and parameters give other features than before."""
USABLE = ("ok", "empty", "full")
"""Statuses of masks that views can be made of."""


@dataclass(frozen=True)
class PreparedViews:
    """The views of one image: `pixels` float32 (k, 3, s, s), each distinct view once; for each view
    its `index` in them, -1 if the image does not have it; the status of the mask."""

    pixels: torch.Tensor
    index: tuple[int, ...]
    status: str


class EncodeMapper:
    """Encodes views of images with CLIP, or a timm model in its place.

    Args:
        params: the encode section of params.yaml.
        clip: from `pipeline.models.load_clip` or `load_timm`.
        masks: bool (h, w) by image_id: a mask store or a dict.
        forward_batch: views per forward pass, to bound memory whatever their number.
        window: that of `read_image`.

    Raises:
        ConfigError: a name in `params.views` is not a view.
    """

    def __init__(
        self,
        params: EncodeParams,
        clip: ClipModel | TimmEncoder,
        masks: Mapping[str, np.ndarray],
        *,
        forward_batch: int = 32,
        window: tuple[float, float] | None = None,
    ):
        if unknown := set(params.views) - set(VIEWS):
            remedy = f"choose from {', '.join(VIEWS)}; joint views are for train.views"
            raise ConfigError(f"encode.views: unknown {', '.join(unknown)}", remedy=remedy)
        self.params, self.clip, self.masks, self.window = params, clip, masks, window
        self.device = clip.device.type
        self.forward_batch = forward_batch
        self.geometry = choose_geometry(params.geometry, clip.resize_mode)
        self.padding = fill_colour(params.fill, clip.mean)
        self.identity: dict[str, Any] = {
            "stage": "encode",
            "mapper_version": MAPPER_VERSION,
            "reader": reader_rules(window),
            "model": {
                "fingerprint": clip.fingerprint,
                "precision": clip.precision,
                "mean": [float(v) for v in clip.mean],
                "std": [float(v) for v in clip.std],
                "image_size": clip.image_size,
                "interpolation": clip.interpolation,
            },
            "geometry": self.geometry,
            **params.model_dump(include={"fill", "crop_margin"}),
            "views": list(params.views),
            "unusable_mask": "whole image",
            "tokens": clip.tokens if params.tokens else 0,
        }
        if not clip.has_text:
            self.identity["texts"] = False
        # Only of views that are asked for, so that stores of the others stay what they are.
        rules = {"dim": params.dim, "blur": BLUR_SHARE}
        if used := {name: rule for name, rule in rules.items() if name in params.views}:
            self.identity["view_rules"] = used

    def load(self, item: WorkItem) -> PreparedViews:
        """Read an image, its mask and (for `oracle`) its ground truth; make all views.

        Besides the columns of the manifest `item.row` has `mask`, the row of the mask store as it
        was when the run began (None if there is none), and `truth_file` ("" for none). Without a
        usable mask the image fails: a missing mask is never taken for an empty one.
        """
        row, stored = item.row, item.row["mask"]
        if stored is None:
            raise no_mask("it has no mask yet")
        if stored["status"] not in USABLE:
            raise no_mask(f"its mask failed ({stored['reason'] or stored['status']})")
        if stored["sha256"] != row["sha256"]:
            raise no_mask("its mask was made of other image bytes")
        image = read_image(item.path, item.frame, window=self.window)
        mask = self.masks[item.image_id]
        if checksum(mask) != stored["crc"] or mask.shape != image.shape[:2]:
            raise no_mask("its mask was replaced while encode was running, or has another size")
        truth = None
        if row["truth_file"]:
            truth = read_mask(row["truth_file"], item.frame, shape=image.shape[:2])
        seed = f"{row['sha256']}#{item.frame}"
        return self.prepare(image, mask, stored["status"], seed, truth)

    def prepare(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        status: str = "ok",
        seed: str = "",
        truth: np.ndarray | None = None,
    ) -> PreparedViews:
        """Make the views of one image, uint8 (h, w, 3), and preprocess them.

        Views are made at the size of the image and resized afterwards, so that x * m is exact.
        `mask` is bool (h, w), `status` its "ok", "empty" or "full"; `seed` is that of the random
        views, `truth` the ground truth, bool (h, w), of the oracle view.
        """
        params, size, mean = self.params, self.clip.image_size, self.clip.mean
        usable = effective_mask(mask, status)
        given = params.fill, mean, params.crop_margin, params.dim
        source = ViewInput(image, usable, seed, truth, *given)
        frames: dict[bytes, np.ndarray] = {}
        index: list[int] = []
        for name in params.views:
            view = VIEWS[name](source)
            if view is None:
                index.append(-1)
                continue
            plan = make_geometry(self.geometry, *view.shape[:2], size)
            frame = plan.apply(view, self.padding, self.clip.interpolation)
            # With an unusable mask most views equal the whole image: encode it once.
            frames.setdefault(frame.tobytes(), frame)
            index.append(list(frames).index(frame.tobytes()))
        stack = np.stack(list(frames.values())) if frames else np.zeros((0, size, size, 3))
        return PreparedViews(normalise(stack, self.clip.mean, self.clip.std), tuple(index), status)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[PreparedViews]) -> list[FeatureRow]:
        """Encode all views of a batch of images."""
        features, tokens = self.encode(loaded)
        return [
            FeatureRow(
                image_id=item.image_id,
                features=features[i],
                tokens=None if tokens is None else tokens[i],
                mask_status=one.status,
                mask_crc=int(item.row["mask"]["crc"]),
                reason="" if one.status == "ok" else f"mask {one.status}: whole image used",
            )
            for i, (item, one) in enumerate(zip(items, loaded, strict=True))
        ]

    def encode(self, prepared: Sequence[PreparedViews]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the features of n images, float32 (n, view, d), and if they are kept their patch
        tokens, (n, view, t, d); NaN for a view that an image does not have."""
        pixels = torch.cat([one.pixels for one in prepared])
        keep, d = self.params.tokens, self.clip.embed_dim
        parts = pixels.split(self.forward_batch) if len(pixels) else ()
        encoded = [self.clip.encode_image(part, tokens=keep) for part in parts]
        rows, start = [], 0
        for one in prepared:
            rows.append([start + i if i >= 0 else -1 for i in one.index])
            start += len(one.pixels)

        def by_view(values: Sequence[torch.Tensor], *shape: int) -> np.ndarray:
            nothing = np.full((1, *shape), np.nan, np.float32)  # the last row, -1
            return np.concatenate([*(v.cpu().numpy() for v in values), nothing])[np.array(rows)]

        if not keep:
            return by_view(encoded, d), None
        pooled, tokens = zip(*encoded, strict=True) if encoded else ((), ())
        return by_view(pooled, d), by_view(tokens, self.clip.tokens, d)


def no_mask(problem: str) -> PipelineError:
    """Return the error of an image without a usable mask."""
    remedy = "run `pipeline segment` on this dataset, then encode again"
    return PipelineError(problem, remedy=remedy)


def normalise(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scale frames to [0, 1], subtract the mean and divide by the standard deviation.

    The same operations in the same order as torchvision's ToTensor and Normalize, so the result
    is bit-equal to open_clip's own transform. uint8 (n, s, s, 3) to float32 (n, 3, s, s).
    """
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float().div_(255)
    shift, scale = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
    return pixels.sub_(shift).div_(scale)
