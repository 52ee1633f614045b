"""L = lambda * L_c + (1 - lambda) * L_e (MedFocusCLIP paper, section III)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def contrastive_loss(similarity: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L_c: symmetric contrastive loss between images and class prompts, several positives a text.

    CLIP's loss has one text for each image. Here C prompts face n images, so an image has one
    positive text, and a text has all images of its class as positives (as in SupCon, Khosla et
    al. 2020). Texts without an image in the batch have nothing to be pulled to and are left out
    of the text side; they remain negatives for every image.

    Args:
        similarity: cosines divided by the temperature, (n, C).
        y: classes, (n,).

    Returns:
        The mean of the image-to-text and the text-to-image side, a scalar.
    """
    image_to_text = F.cross_entropy(similarity, y)
    log_share = torch.log_softmax(similarity, dim=0)
    positives = F.one_hot(y, similarity.shape[1]).to(similarity.dtype)
    count = positives.sum(dim=0)
    present = count > 0
    per_text = -(log_share * positives).sum(dim=0)[present] / count[present]
    # log(number of positives) is the floor of each text's term; without it the two sides would
    # not be comparable over batch sizes.
    text_to_image = (per_text - torch.log(count[present])).mean()
    return (image_to_text + text_to_image) / 2


def classification_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L_e: cross-entropy of the class logits (n, C)."""
    return F.cross_entropy(logits, y)


def medfocus_loss(
    similarity: torch.Tensor, logits: torch.Tensor, y: torch.Tensor, lambda_: float
) -> torch.Tensor:
    """L = lambda * L_c + (1 - lambda) * L_e.

    At lambda = 0 and 1 the other term is not computed, so that it cannot bring in a NaN.
    """
    if lambda_ == 0:
        return classification_loss(logits, y)
    if lambda_ == 1:
        return contrastive_loss(similarity, y)
    mixed = lambda_ * contrastive_loss(similarity, y)
    return mixed + (1 - lambda_) * classification_loss(logits, y)
