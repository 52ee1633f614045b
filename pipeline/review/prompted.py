"""SAM2 asked by hand: the embedding of the image shown is kept, so a prompt costs the decoder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from pipeline.models import Sam2ImagePredictor, draw_box_prompt
from pipeline.segment.predictor import BatchPredictor, Prompt


class Prompted:
    """Answers prompts on one image after another. Safe in threads.

    Args:
        predictor: a loaded SAM2.
        box_as_mask: whether a box also enters as SAM2's mask prompt (`segment.box_as_mask`).
        read: returns the image of a row of the manifest, uint8 (h, w, 3), and its embedding if that
            is stored.
    """

    def __init__(
        self,
        predictor: Sam2ImagePredictor,
        box_as_mask: bool,
        read: Callable[[dict], tuple[np.ndarray, list[Tensor] | None]],
    ):
        self.sam2, self.box_as_mask, self.read = BatchPredictor(predictor), box_as_mask, read
        self._lock = threading.Lock()
        self._key, self._shown, self._size, self._maps = None, None, (0, 0), []

    def show(self, row: dict) -> None:
        """Embed the image of a row, unless that was done, or another one is shown by the time it is
        its turn."""
        self._shown = row
        with self._lock:
            if row is self._shown:
                self._embed(row)

    def ask(
        self, row: dict, box: Sequence[float], points: Sequence[tuple[float, float, int]]
    ) -> tuple[np.ndarray, float]:
        """Return the mask, bool (h, w), of a box (or ()) and clicks in pixels, and its predicted
        IoU. One click alone is ambiguous: of three masks the best is taken, as in the SAM paper
        (Kirillov et al. 2023, section 3)."""
        with self._lock:
            self._embed(row)
            height, width = self._size
            corners = [(*box[:2], 2), (*box[2:], 3)] if box else []
            given = np.array([*corners, *points], np.float32).reshape(-1, 3)
            drawn = None
            if box and self.box_as_mask:
                drawn = draw_box_prompt(box, height, width, self.sam2.predictor.mask_prompt_size)
            prompt = Prompt(np.ascontiguousarray(given[:, :2]), given[:, 2].astype(np.int32), drawn)
            logits, ious = self.sam2.decode(
                self._maps, [prompt], [self._size], multimask=len(given) == 1
            )
            best = int(ious[0].argmax())
            mask = self.sam2.upsample(logits[0, best : best + 1], height, width)[0]
            return mask, float(ious[0, best])

    def _embed(self, row: dict) -> None:
        key = row["sha256"], row["frame"]
        if key != self._key:
            (image, maps), self._key = self.read(row), None
            self._maps = self.sam2.embed([maps or self.sam2.preprocess(image)])
            self._key, self._size = key, image.shape[:2]
