"""SAM2's image predictor for a batch of images: one forward pass of encoder and decoder.

`SAM2ImagePredictor` resizes images in the calling thread and decodes one after another. The
modules, their order and their arithmetic are those of the predictor, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.sam2 import Sam2ImagePredictor

PASS_PIXELS = 32 * 1024**2
"""Pixels of the frames of all prompts in one pass of the decoder, to bound its memory (1.5 GB): 32
prompts at 1,024 px (SAM2's own mask generator decodes 64), 128 at 512 px."""


Frame = Tensor | list[Tensor]
"""What SAM2 sees, float32 (3, size, size); or its embedding, maps (c, h, w) as of `embed`."""


@dataclass(frozen=True)
class Prompt:
    """A prompt in pixels of the frame that SAM2 sees (an image or a crop of it).

    Args:
        points: float32 (n, 2) x, y; None for no prompt at all.
        labels: int (n,): 1 object, 0 background, 2 and 3 top left and bottom right of a box.
        mask: float32 (1, s, s) logits of SAM2's low-resolution mask prompt, or None.
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None

    @classmethod
    def box(cls, box: np.ndarray, mask: np.ndarray | None = None) -> Prompt:
        """Return the prompt of a box x0, y0, x1, y1: its two corners."""
        return cls(np.asarray(box, np.float32).reshape(2, 2), np.array([2, 3], np.int32), mask)


class BatchPredictor:
    """Embeds and decodes batches with a SAM2 of `load_sam2`, in its precision."""

    def __init__(self, predictor: Sam2ImagePredictor):
        self.predictor = predictor

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize and normalise an image, uint8 (h, w, 3), to float32 (3, size, size) as the
        predictor does. Thread-safe."""
        if not image.flags.writeable:  # torch warns about read-only arrays
            image = image.copy()
        return self.predictor._transforms(image)

    @torch.inference_mode()
    def embed(self, frames: Sequence[Frame]) -> list[Tensor]:
        """Encode n frames, but those that are embeddings already; returns maps (n, c, h, w), the
        coarse one last."""
        model, pixels = self.predictor.model, [one for one in frames if isinstance(one, Tensor)]
        if len(pixels) < len(frames):
            new = zip(*self.embed(pixels), strict=True) if pixels else iter(())
            rows = [next(new) if isinstance(one, Tensor) else one for one in frames]
            device = self.predictor.device  # stored ones come from the disk
            levels = zip(*([one.to(device) for one in row] for row in rows), strict=True)
            return [stacked(level) for level in levels]
        with self.predictor._autocast():
            pixels = torch.stack(list(frames)).to(self.predictor.device)
            _, features, _, sizes = model._prepare_backbone_features(model.forward_image(pixels))
            if model.directly_add_no_mem_embed:
                features[-1] = features[-1] + model.no_mem_embed
        return [
            feature.permute(1, 2, 0).reshape(len(frames), -1, *size)
            for feature, size in zip(features, sizes, strict=True)
        ]

    @torch.inference_mode()
    def decode(
        self,
        maps: list[Tensor],
        prompts: Sequence[Prompt],
        sizes: Sequence[tuple[int, int]],
        *,
        index: Sequence[int] | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, np.ndarray]:
        """Decode p prompts; those with the same number of points share forward passes.

        Args:
            maps: of n frames, from `embed`.
            prompts: p prompts.
            sizes: height and width in pixels of the frame of each prompt.
            index: the frame of each prompt; default one each, in order.
            multimask: return three masks per prompt instead of one.

        Returns:
            float32 logits (p, m, s, s) at SAM2's low resolution, and float32 (p, m) predicted IoU.
        """
        model, device = self.predictor.model, self.predictor.device
        index = range(len(prompts)) if index is None else index
        kinds: dict[tuple, list[int]] = {}
        for i, prompt in enumerate(prompts):
            # Padding tokens would be attended to, so prompts are grouped by their count.
            count = None if prompt.points is None else len(prompt.points)
            kinds.setdefault((count, prompt.mask is None), []).append(i)
        decoded: dict[int, tuple[Tensor, np.ndarray]] = {}
        most = max(1, PASS_PIXELS // self.predictor.image_size**2)
        passes = [
            (kind, members[start : start + most])
            for kind, members in kinds.items()
            for start in range(0, len(members), most)
        ]
        for (count, no_mask), members in passes:
            asked, points, masks = [prompts[i] for i in members], None, None
            if count is not None:
                side = self.predictor.image_size
                scale = [[[side / w, side / h]] for h, w in (sizes[i] for i in members)]
                coords = np.stack([p.points for p in asked]) * np.array(scale, np.float32)
                labels = np.stack([p.labels for p in asked])
                points = torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device)
            if not no_mask:
                masks = torch.from_numpy(np.stack([p.mask for p in asked])).to(device)
            rows = torch.tensor([index[i] for i in members], device=device)
            *high_res, image = (level[rows] for level in maps)
            with self.predictor._autocast():
                sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=masks)
                low_res, iou, _, _ = model.sam_mask_decoder(
                    image_embeddings=image,
                    image_pe=model.sam_prompt_encoder.get_dense_pe(),
                    # Without a prompt the encoder returns one row, whatever the batch.
                    sparse_prompt_embeddings=sparse.expand(len(asked), -1, -1),
                    dense_prompt_embeddings=dense.expand(len(asked), -1, -1, -1),
                    multimask_output=multimask,
                    repeat_image=False,
                    high_res_features=high_res,
                )
            pairs = zip(low_res.float(), iou.float().cpu().numpy(), strict=True)
            decoded |= dict(zip(members, pairs, strict=True))
        logits, ious = zip(*(decoded[i] for i in range(len(prompts))), strict=True)
        return torch.stack(logits), np.stack(ious)

    @torch.inference_mode()
    def upsample(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """Return the masks, bool (m, height, width), of float32 (m, s, s) logits.

        As the predictor does: bilinear interpolation, then the threshold. Its hole filling is off
        by default; it is omitted, so that masks do not depend on how sam2 was built.
        """
        full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]
        return (full > self.predictor.mask_threshold).cpu().numpy()


def stacked(maps: Sequence[Tensor]) -> Tensor:
    """Stack maps (c, h, w) to (n, c, h, w) with the memory order of the first, on which the last
    bits of a decoder in bf16 depend."""
    order = sorted(range(3), key=lambda k: -maps[0].stride(k))
    found = torch.stack([one.permute(order) for one in maps])
    return found.permute(0, *(1 + order.index(k) for k in range(3)))


class CachedPredictor(BatchPredictor):
    """A predictor for one batch that encodes equal frames once, whatever the strategies; `known`
    are images, uint8 (h, w, 3), with their embeddings."""

    def __init__(
        self, predictor: Sam2ImagePredictor, known: Iterable[tuple[np.ndarray, list[Tensor]]] = ()
    ):
        super().__init__(predictor)
        self._frames: dict[tuple, Frame] = {(i.shape, i.tobytes()): maps for i, maps in known}
        self._maps: dict[tuple, list[Tensor]] = {}

    def preprocess(self, image: np.ndarray) -> Frame:
        key = (image.shape, image.tobytes())
        if key not in self._frames:
            self._frames[key] = super().preprocess(image)
        return self._frames[key]

    def embed(self, frames: Sequence[Frame]) -> list[Tensor]:
        key = tuple(map(id, frames))  # frames stay alive in `_frames`, so ids are unique
        if key not in self._maps:
            self._maps[key] = super().embed(frames)
        return self._maps[key]
