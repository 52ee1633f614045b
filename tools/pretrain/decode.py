"""Encode a batch once and decode many prompts, with SAM2's own modules."""

from __future__ import annotations

import torch
from sam2.modeling.sam2_base import SAM2Base

Features = tuple[torch.Tensor, list[torch.Tensor]]


def encode(model: SAM2Base, images: torch.Tensor) -> Features:
    """Encode normalised images.

    Args:
        model: a SAM2 that adds no memory embedding and uses high-resolution features.
        images: float (B, 3, S, S).

    Returns:
        The embedding (B, C, S/16, S/16) and the features at strides 4 and 8.
    """
    maps = model.forward_image(images)["backbone_fpn"]
    return maps[-1], list(maps[:-1])


def decode(
    model: SAM2Base,
    features: Features,
    index: torch.Tensor,
    points: tuple[torch.Tensor, torch.Tensor] | None = None,
    masks: torch.Tensor | None = None,
    use_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode N prompts of B encoded images.

    Args:
        model: as for `encode`.
        features: of `encode`.
        index: int (N,), the image of each prompt.
        points: float (N, k, 2) in pixels of the model's input and int (N, k) labels, a box
            being two points labelled 2 and 3; None for no sparse prompt at all.
        masks: float (N, 1, S/4, S/4) mask prompts.
        use_mask: bool (N,), the rows that use their mask prompt; None for all.

    Returns:
        Logits (N, 4, S/4, S/4) of all mask tokens and their quality estimates (N, 4).
    """
    encoder, (embedding, fine) = model.sam_prompt_encoder, features
    sparse, dense = encoder(points=points, boxes=None, masks=None)
    if points is None:
        sparse = sparse.expand(len(index), -1, -1)
    if masks is not None:
        drawn = encoder._embed_masks(masks)
        if use_mask is not None:
            drawn = torch.where(use_mask[:, None, None, None], drawn, dense.to(drawn.dtype))
        dense = drawn
    logits, iou, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=embedding[index],
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[f[index] for f in fine],
    )
    return logits, iou
