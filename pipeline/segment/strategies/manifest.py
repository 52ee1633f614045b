"""Ground-truth masks, from the manifest's `mask_path` column: the ceiling ablation. No model is run.

An image without a mask file fails, naming the file. It is not taken for an image without a region:
nobody has said that it has none. A mask file that is all black is a statement, and gives `empty`.
"""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.errors import ImageError, PipelineError
from pipeline.images import read_mask
from pipeline.segment.strategies.base import Found, Look, Strategy


class Manifest(Strategy):
    """The radiologist's region instead of SAM2's."""

    name = "manifest"
    columns = ("mask_path",)
    mask_file = True
    needs_model = False

    def prepare(self, image, row, sam):
        height, width = image.shape[:2]
        if not row["mask_path"]:
            raise PipelineError(
                "no ground-truth mask in the manifest",
                remedy="fill its mask_path, or choose another segment.prompt",
            )
        mask = read_truth(row["mask_file"], int(row["frame"]), height, width)
        return Look(height, width, (0, 0, width, height), None, words=self.name, extra=mask)

    def segment(self, looks, sam):
        return [Found(look.extra, math.nan, math.nan, look.words) for look in looks]


def read_truth(path: str | Path, frame: int, height: int, width: int):
    """Read a ground-truth mask and hold its size against the image's; bool (height, width).

    Raises:
        ImageError: it cannot be read, or has another size.
    """
    mask = read_mask(path, frame)
    if mask.shape != (height, width):
        raise ImageError(
            f"mask of {mask.shape[1]} x {mask.shape[0]} for an image of {width} x {height}",
            path=path,
            remedy="give a mask of the image's own size, upright",
        )
    return mask
