"""From 8-bit pixels to what the image tower takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def normalise(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Scale to [0, 1], subtract the mean, divide by the deviation.

    The operations of torchvision's ToTensor and Normalize in their order, so that the result is
    bit-equal to open_clip's own transform, but over all views of an image at once.

    Args:
        frames: uint8 (n, s, s, 3).
        mean, std: of the model, per channel.

    Returns:
        float32 (n, 3, s, s), contiguous.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))).float().div_(255)
    as_tensor = [torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std)]
    return pixels.sub_(as_tensor[0]).div_(as_tensor[1])
