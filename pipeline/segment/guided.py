"""Prompt strategies that look for words: CLIP or CLIPSeg says where, SAM2 draws the outline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from pipeline.segment.quality import bounding_box
from pipeline.segment.strategies import (
    MAX_MERGED,
    Auto,
    PreparedImage,
    Strategy,
    mask_row,
)

MAP_SIDE = 64  # of the map of an image, whatever its size
WINDOWS = 3  # along a side, each half an image wide: they make a coarse map finer
PART_SHARE = 0.5  # parts of the map of this share of the largest one are prompts too (two lungs)
LOOKED_AT = 16  # candidates of SAM2 that CLIP looks at, the best by `auto`'s score
CROP_MARGIN = 0.2  # of the box of a candidate, on each side


def picture(image: np.ndarray) -> Tensor:
    """Return an image, uint8 (h, w, 3), as float32 (3, h, w) in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div_(255)


class Saliency(Strategy):
    """Boxes around what resembles the words most, then `box`.

    The map is s(p) = cos(v_p, object) - cos(v_p, background) of CLIP's patch tokens v_p, the mean
    of that of the image and that of overlapping windows. It is cut by Otsu's threshold, and each of
    its large parts becomes a box. After MedCLIP-SAM (Koleilat et al., arXiv:2403.20253), which has
    gradient-based maps and a conditional random field instead.
    """

    name = "saliency"
    parameters = ("box_as_mask", "zoom")
    uses_words = True
    uses_clip = True

    def fingerprint(self) -> dict[str, Any]:
        rules = {"map": [MAP_SIDE, WINDOWS], "part_share": PART_SHARE, "max_merged": MAX_MERGED}
        return super().fingerprint() | rules

    def prepare(self, image, columns, truth=None):
        return image

    def segment(self, prepared):
        asked: list[PreparedImage] = []
        owner: list[int] = []
        for i, image in enumerate(prepared):
            for box in boxes_of(self.map(image), *image.shape[:2]):
                asked.append(self.prepare_region(image, *self.ask_box(box, *image.shape[:2])))
                owner.append(i)
        found = super().segment(asked)
        rows = []
        for i, image in enumerate(prepared):
            own = [row for row, of in zip(found, owner, strict=True) if of == i]
            mask = np.any([np.zeros(image.shape[:2], bool), *(row.mask for row in own)], axis=0)
            text = "; ".join([self.name, *(row.prompt for row in own)])
            scores = ([getattr(row, n) for row in own] or [0.0] for n in SCORES)
            rows.append(mask_row(mask, text, *map(float, map(np.mean, scores))))
        return rows

    def map(self, image: np.ndarray) -> np.ndarray:
        """Return how much each place resembles the words, float32 (MAP_SIDE, MAP_SIDE)."""
        whole = picture(image)
        height, width = image.shape[:2]
        half_h, half_w = -(-height // 2), -(-width // 2)
        tops = np.linspace(0, height - half_h, WINDOWS).round().astype(int)
        lefts = np.linspace(0, width - half_w, WINDOWS).round().astype(int)
        windows = [(y, x) for y in tops for x in lefts]
        parts = [whole, *(whole[:, y : y + half_h, x : x + half_w] for y, x in windows)]
        _, tokens = self.guide.clip.encode_image(self.guide.preprocess(parts), tokens=True)
        maps = self.guide.contrast(tokens).unflatten(1, self.guide.clip.token_grid)[:, None].cpu()
        total, count = np.zeros((2, MAP_SIDE, MAP_SIDE))
        for (y, x), fine in zip(windows, maps[1:], strict=True):
            ends = (y / height, (y + half_h) / height, x / width, (x + half_w) / width)
            y0, y1, x0, x1 = (round(v * MAP_SIDE) for v in ends)
            total[y0:y1, x0:x1] += resized(fine, y1 - y0, x1 - x0)
            count[y0:y1, x0:x1] += 1
        return (resized(maps[0], MAP_SIDE, MAP_SIDE) + total / np.maximum(count, 1)) / 2


SCORES = ("predicted_iou", "stability")


def resized(values: Tensor, height: int, width: int) -> np.ndarray:
    """Interpolate a map (1, h, w)."""
    return F.interpolate(values[None], (height, width), mode="bilinear")[0, 0].numpy()


def boxes_of(values: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Return boxes x0, y0, x1, y1 in pixels of an image of this size around the large parts of a
    map, float (s, s): what is above Otsu's threshold, weighed by how far above. A flat map has
    none."""
    if np.ptp(values) < 1e-6:
        return []
    over = np.maximum(values - threshold_otsu(values), 0)
    labels, count = ndimage.label(over > 0)
    weights = ndimage.sum(over, labels, np.arange(1, count + 1))
    scale = np.array([width, height] * 2) / np.array(values.shape[::-1] * 2)
    best = np.argsort(-weights, kind="stable")[:MAX_MERGED]
    large = [k for k in best if weights[k] >= PART_SHARE * weights.max()]
    return [np.float32(bounding_box(labels == k + 1) * scale) for k in large]


class ClipSegBox(Saliency):
    """`saliency` with a map of CLIPSeg: the mean logit of the object's texts, minus that of the
    background's, in place of CLIP's. Its model is `segment.clipseg`, in fp32."""

    name = "clipseg"
    uses_clip = False

    def __init__(self, params, sam2, guide=None):
        super().__init__(params, sam2, guide)
        from pipeline.models.clipseg import load_clipseg  # slow to import

        self.model = load_clipseg(params.clipseg, str(sam2.predictor.device))

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"map": [MAP_SIDE], "clipseg": self.model.fingerprint}

    def map(self, image):
        words = self.guide.words
        logits = self.model.maps(image, [*words.object, *words.background]).cpu()
        n = len(words.object)
        values = logits[:n].mean(dim=0) - logits[n:].mean(dim=0)
        return resized(values[None], MAP_SIDE, MAP_SIDE)


class Salip(Auto):
    """Of `auto`'s candidates the one that CLIP finds closest to the words.

    Each candidate is shown to CLIP as the crop around its box; the score is
    cos(v, object) - cos(v, background). After SaLIP (Aleem et al., arXiv:2404.06362).
    """

    name = "salip"
    uses_words = True
    uses_clip = True
    keeps_candidates = False  # CLIP looks at the image
    most = LOOKED_AT

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"looked_at": LOOKED_AT, "crop_margin": CROP_MARGIN}

    def pick(self, found):
        crops, (height, width) = [], found.size
        scale = np.array([width, height] * 2) / np.array(found.low_res.shape[:0:-1] * 2)
        whole = picture(found.image)
        for mask in found.low_res:
            x0, y0, x1, y1 = bounding_box(mask) * scale
            mx, my = (x1 - x0) * CROP_MARGIN, (y1 - y0) * CROP_MARGIN
            top, left = max(0, int(y0 - my)), max(0, int(x0 - mx))
            crops.append(whole[:, top : int(np.ceil(y1 + my)), left : int(np.ceil(x1 + mx))])
        features = self.guide.clip.encode_image(self.guide.preprocess(crops))
        return [int(self.guide.contrast(features).argmax())]
