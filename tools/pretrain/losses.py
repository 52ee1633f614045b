"""Loss of the mask decoder: Dice, focal loss and its own IoU estimate."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 - Dice of probabilities, (..., s, s) -> (...)."""
    p = logits.sigmoid()
    overlap = (p * target).sum((-1, -2))
    return 1 - (2 * overlap + 1) / (p.sum((-1, -2)) + target.sum((-1, -2)) + 1)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    """Return the focal loss (Lin 2017), mean over pixels, (..., s, s) -> (...)."""
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = (logits.sigmoid() - target).abs()
    return (plain * wrong**gamma).mean((-1, -2))


def mask_loss(
    logits: torch.Tensor, iou: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of all four mask tokens, as in SAM.

    Token 0 (single mask) always has full weight; of tokens 1 to 3 the best one has, and the
    others a small weight, so that all keep learning. Every quality estimate is fitted to the IoU.

    Args:
        logits: float (N, 4, s, s).
        iou: float (N, 4), the quality estimates.
        target: float (N, s, s) in [0, 1].

    Returns:
        The mean loss and the mean Dice of token 0, both scalars.
    """
    logits, iou = logits.float(), iou.float()
    wanted = target[:, None].expand_as(logits)
    each = soft_dice_loss(logits, wanted) + 6 * focal_loss(logits, wanted)
    multi = each[:, 1:]
    with torch.no_grad():
        found, true = logits > 0, wanted > 0.5
        both = (found & true).sum((-1, -2)).float()
        either = (found | true).sum((-1, -2)).float()
        real = both / either.clamp_min(1)
        dice = 2 * both / (found.sum((-1, -2)) + true.sum((-1, -2))).clamp_min(1)
    total = each[:, 0] + 0.7 * multi.amin(1) + 0.1 * multi.mean(1)
    total = total + 0.3 * (iou - real).abs().mean(1)
    return total.mean(), dice[:, 0].mean()
