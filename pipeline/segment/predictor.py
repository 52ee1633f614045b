"""SAM2's image predictor for a batch of images: one forward pass of encoder and decoder.

`SAM2ImagePredictor.predict_batch` decodes one image after another, and `set_image_batch` resizes
images in the calling thread. Here images are resized in the loader threads and all prompts of a
batch are decoded at once. The modules, their order and their arithmetic are those of the predictor,
which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.sam2 import Sam2ImagePredictor


@dataclass(frozen=True)
class Embedding:
    """Image features of n images.

    Args:
        image: the coarse map (n, c, h, w).
        high_res: finer maps for the decoder, (n, c, h, w) each.
    """

    image: Tensor
    high_res: list[Tensor]

    def rows(self, index: Tensor) -> Embedding:
        """Return the features of the images at `index`, which may repeat an image."""
        return Embedding(self.image[index], [level[index] for level in self.high_res])


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
    """Embeds and decodes batches with a loaded SAM2.

    Args:
        predictor: from `pipeline.models.load_sam2`; it runs in the precision of the predictor and
            returns logits in float32.
    """

    def __init__(self, predictor: Sam2ImagePredictor):
        self.predictor = predictor
        self.size: int = predictor.image_size
        self.mask_prompt_size: int = predictor.mask_prompt_size

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize and normalise an image as the predictor does. Thread-safe.

        Args:
            image: uint8 (h, w, 3).

        Returns:
            float32 (3, size, size).
        """
        if not image.flags.writeable:  # torch warns about read-only arrays
            image = image.copy()
        return self.predictor._transforms(image)

    @torch.inference_mode()
    def embed(self, frames: list[Tensor]) -> Embedding:
        """Encode preprocessed frames, each (3, size, size)."""
        model = self.predictor.model
        with self.predictor._autocast():
            pixels = torch.stack(frames).to(self.predictor.device)
            backbone = model.forward_image(pixels)
            _, features, _, sizes = model._prepare_backbone_features(backbone)
            if model.directly_add_no_mem_embed:
                features[-1] = features[-1] + model.no_mem_embed
        maps = [
            feature.permute(1, 2, 0).reshape(len(frames), -1, *size)
            for feature, size in zip(features, sizes, strict=True)
        ]
        return Embedding(maps[-1], maps[:-1])

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        prompts: list[Prompt],
        sizes: list[tuple[int, int]],
        *,
        index: list[int] | None = None,
        multimask: bool = False,
    ) -> tuple[Tensor, np.ndarray]:
        """Decode p prompts; those with the same number of points share one forward pass.

        Args:
            embedding: of n frames.
            prompts: p prompts.
            sizes: height and width in pixels of the frame of each prompt.
            index: the frame of each prompt; default one each, in order.
            multimask: return three masks per prompt instead of one.

        Returns:
            float32 logits (p, m, s, s) at SAM2's low resolution, and float32 (p, m) predicted IoU.
        """
        index = list(range(len(prompts))) if index is None else index
        kinds: dict[tuple, list[int]] = {}
        for i, prompt in enumerate(prompts):
            # Padding tokens would be attended to, so prompts are grouped by their count.
            count = None if prompt.points is None else len(prompt.points)
            kinds.setdefault((count, prompt.mask is None), []).append(i)
        logits: list[Tensor | None] = [None] * len(prompts)
        ious: list[np.ndarray | None] = [None] * len(prompts)
        for members in kinds.values():
            rows = torch.tensor([index[i] for i in members], device=embedding.image.device)
            low_res, iou = self._decode_group(
                embedding.rows(rows),
                [prompts[i] for i in members],
                [sizes[i] for i in members],
                multimask,
            )
            for i, mask, score in zip(members, low_res.float(), iou.float().cpu(), strict=True):
                logits[i], ious[i] = mask, score.numpy()
        return torch.stack(logits), np.stack(ious)

    def _decode_group(
        self,
        embedding: Embedding,
        prompts: list[Prompt],
        sizes: list[tuple[int, int]],
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        model, device = self.predictor.model, self.predictor.device
        points = masks = None
        if prompts[0].points is not None:
            scale = np.array([[[self.size / w, self.size / h]] for h, w in sizes], np.float32)
            coords = torch.from_numpy(np.stack([p.points for p in prompts]) * scale).to(device)
            labels = torch.from_numpy(np.stack([p.labels for p in prompts])).to(device)
            points = (coords, labels)
        if prompts[0].mask is not None:
            masks = torch.from_numpy(np.stack([p.mask for p in prompts])).to(device)
        with self.predictor._autocast():
            sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=masks)
            if len(sparse) != len(prompts):  # without a prompt the encoder does not know how many
                sparse = sparse.expand(len(prompts), -1, -1)
                dense = dense.expand(len(prompts), -1, -1, -1)
            low_res, iou, _, _ = model.sam_mask_decoder(
                image_embeddings=embedding.image,
                image_pe=model.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
                repeat_image=False,
                high_res_features=embedding.high_res,
            )
        return low_res, iou

    @torch.inference_mode()
    def upsample(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """Return the masks of logits at full size, computed as the predictor does.

        Bilinear interpolation, then the threshold. The hole filling of the predictor is off by
        default and needs the compiled extension of sam2; it is omitted, so that masks do not depend
        on how sam2 was built.

        Args:
            logits: float32 (m, s, s).
            height: of the masks, pixels.
            width: of the masks, pixels.

        Returns:
            bool (m, height, width).
        """
        full = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]
        return (full > self.predictor.mask_threshold).cpu().numpy()
