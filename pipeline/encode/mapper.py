"""I = E_v(x * m) as a mapper of the engine: an image and its mask in, features of all views out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.config import POOLED_VIEWS, EncodeParams
from pipeline.encode.geometry import choose_geometry, make_geometry
from pipeline.encode.views import BLUR_SHARE, VIEWS, ViewInput, fill_colour, pooled_region
from pipeline.errors import ConfigError, PipelineError
from pipeline.images import read_image, read_mask, reader_rules
from pipeline.models import ClipModel, TimmEncoder
from pipeline.segment.quality import effective_mask
from pipeline.store import FeatureRow, WorkItem
from pipeline.store.layout import GOOD, checksum

MAPPER_VERSION = 1
"""Incremented when the same model and parameters give other features than before."""


@dataclass(frozen=True)
class PreparedViews:
    """The views of one image: `pixels` float32 (k, 3, s, s), each distinct view once; for each view
    its `index` in them, -1 if the image does not have it; the status of the mask; and where
    feature maps are pooled the index of the `whole` image and by map the `shares` of its cells
    that each pooled view has, float32 (p, h_i, w_i)."""

    pixels: torch.Tensor
    index: tuple[int, ...]
    status: str
    whole: int = -1
    shares: tuple[np.ndarray, ...] = ()


class Encoded(NamedTuple):
    """Features of n images: of `frames` (views that CLIP is shown) float32 (n, view, d), NaN for a
    view that an image does not have, and their patch tokens (n, view, t, d) if they are kept; of
    the pooled views (n, pooled view, sum of the maps' channels), if there are any."""

    features: np.ndarray
    tokens: np.ndarray | None
    pooled: np.ndarray | None


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
        if unknown := set(params.views) - {*VIEWS, *POOLED_VIEWS}:
            remedy = (
                f"choose from {', '.join((*VIEWS, *POOLED_VIEWS))}; joint views are for train.views"
            )
            raise ConfigError(f"encode.views: unknown {', '.join(unknown)}", remedy=remedy)
        self.params, self.clip, self.masks, self.window = params, clip, masks, window
        self.device = clip.device.type
        self.forward_batch = forward_batch
        self.geometry = choose_geometry(params.geometry, clip.resize_mode)
        self.padding = fill_colour(params.fill, clip.mean)
        self.frames, self.pooled = (
            tuple(name for name in params.views if (name in POOLED_VIEWS) == pooled)
            for pooled in (False, True)
        )
        self.grids: list[tuple[int, int]] = []
        self.pooled_dim = 0
        if self.pooled:
            _, maps = clip.encode_maps(torch.zeros(1, 3, clip.image_size, clip.image_size))
            self.grids = [tuple(each.shape[2:]) for each in maps]
            self.pooled_dim = sum(each.shape[1] for each in maps)
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
        rules |= {name: [list(grid) for grid in self.grids] for name in POOLED_VIEWS}
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
        if stored["status"] not in GOOD:
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
        size = self.clip.image_size
        source = self.source(image, mask, status, seed, truth)
        # The maps are those of the whole image, whether or not its own view is asked for.
        names = (*self.frames, *(["whole"] if self.pooled else []))
        frames, index = self.draw(source, names)
        stack = np.stack(frames) if frames else np.zeros((0, size, size, 3))
        pixels = normalise(stack, self.clip.mean, self.clip.std)
        if not self.pooled:
            return PreparedViews(pixels, tuple(index), status)
        plan = make_geometry(self.geometry, *image.shape[:2], size)
        regions = [plan.shares(pooled_region(one, source), self.grids) for one in self.pooled]
        shares = tuple(map(np.stack, zip(*regions, strict=True)))
        for n, grid in enumerate(shares):
            # Nothing outside a full mask, or the mask is in what the geometry crops.
            nothing = grid.sum(axis=(1, 2)) == 0
            if nothing.any():
                grid[nothing] = plan.shares(np.ones_like(mask), self.grids[n : n + 1])[0]
        return PreparedViews(pixels, tuple(index[:-1]), status, index[-1], shares)

    def source(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        status: str = "ok",
        seed: str = "",
        truth: np.ndarray | None = None,
    ) -> ViewInput:
        """Return what views are made from; arguments of `prepare`."""
        params = self.params
        given = params.fill, self.clip.mean, params.crop_margin, params.dim
        return ViewInput(image, effective_mask(mask, status), seed, truth, *given)

    def draw(self, source: ViewInput, names: Sequence[str]) -> tuple[list[np.ndarray], list[int]]:
        """Return the distinct frames of some views, uint8 (size, size, 3), and for each view the
        number of its frame, -1 if the image does not have it."""
        frames: dict[bytes, np.ndarray] = {}
        index: list[int] = []
        for name in names:
            view = VIEWS[name](source)
            if view is None:
                index.append(-1)
                continue
            plan = make_geometry(self.geometry, *view.shape[:2], self.clip.image_size)
            frame = plan.apply(view, self.padding, self.clip.interpolation)
            # With an unusable mask most views equal the whole image: encode it once.
            frames.setdefault(frame.tobytes(), frame)
            index.append(list(frames).index(frame.tobytes()))
        return list(frames.values()), index

    def map(self, items: Sequence[WorkItem], loaded: Sequence[PreparedViews]) -> list[FeatureRow]:
        """Encode all views of a batch of images."""
        found = self.encode(loaded)
        return [
            FeatureRow(
                image_id=item.image_id,
                features=found.features[i],
                tokens=None if found.tokens is None else found.tokens[i],
                pooled=None if found.pooled is None else found.pooled[i],
                mask_status=one.status,
                mask_crc=int(item.row["mask"]["crc"]),
                reason="" if one.status == "ok" else f"mask {one.status}: whole image used",
            )
            for i, (item, one) in enumerate(zip(items, loaded, strict=True))
        ]

    def encode(self, prepared: Sequence[PreparedViews]) -> Encoded:
        """Return the features of n images. All that is of the whole image, its own view and the
        pooled ones, is of one forward pass of it."""
        pixels = torch.cat([one.pixels for one in prepared])
        keep, d = self.params.tokens, self.clip.embed_dim
        starts = np.cumsum([0, *(len(one.pixels) for one in prepared)]).tolist()
        each = list(zip(starts, prepared, strict=False))  # of each image the first frame
        rows = [[start + i if i >= 0 else -1 for i in one.index] for start, one in each]
        wholes = {start + one.whole: k for k, (start, one) in enumerate(each)}
        encoded = []
        pooled = np.zeros((len(prepared), len(self.pooled), self.pooled_dim), np.float32)
        for start in range(0, len(pixels), self.forward_batch):
            part = pixels[start : start + self.forward_batch]
            if keep or not self.pooled:
                encoded.append(self.clip.encode_image(part, tokens=keep))
            if self.pooled:
                vectors, maps = self.clip.encode_maps(part)
                encoded += [] if keep else [vectors]
                for row in wholes.keys() & range(start, start + len(part)):
                    of = wholes[row]
                    found = [one[row - start].cpu().numpy() for one in maps]
                    pooled[of] = pool(found, prepared[of].shares)

        def by_view(values: Sequence[torch.Tensor], *shape: int) -> np.ndarray:
            nothing = np.full((1, *shape), np.nan, np.float32)  # the last row, -1
            at = np.array(rows, np.int64).reshape(len(rows), len(self.frames))
            return np.concatenate([*(v.cpu().numpy() for v in values), nothing])[at]

        tokens = None
        if keep:
            encoded, tokens = zip(*encoded, strict=True) if encoded else ((), ())
            tokens = by_view(tokens, self.clip.tokens, d)
        return Encoded(by_view(encoded, d), tokens, pooled if self.pooled else None)


def pool(maps: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> np.ndarray:
    """Return the means of the feature maps of one image over regions, all maps side by side.

    `maps` are float32 (C_i, h_i, w_i), `shares` of the cells in each of p regions (p, h_i, w_i);
    the result is float32 (p, sum of C_i).
    """
    means = []
    for each, share in zip(maps, shares, strict=True):
        weights = share.reshape(len(share), -1).astype(np.float64)
        total = weights @ each.reshape(len(each), -1).T.astype(np.float64)
        means.append(total / weights.sum(axis=1, keepdims=True))
    return np.concatenate(means, axis=1).astype(np.float32)


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
