"""From 8-bit frames to the pixels that the image tower takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


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
