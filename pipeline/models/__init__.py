"""SAM2 and CLIP models: configurations and loading. Importing this package does not import torch.

from pipeline.models import ModelSpec, load_clip, load_sam2
predictor = load_sam2(ModelSpec(name="sam2-micro"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.config import ModelSpec

if TYPE_CHECKING:
    from pipeline.models.clip import ClipModel
    from pipeline.models.clip_load import load_clip
    from pipeline.models.prompts import draw_box_prompt
    from pipeline.models.sam2 import Sam2ImagePredictor, load_sam2

_MODULES = {
    "load_sam2": "sam2",
    "Sam2ImagePredictor": "sam2",
    "load_clip": "clip_load",
    "ClipModel": "clip",
    "draw_box_prompt": "prompts",
}

__all__ = [
    "ClipModel", "ModelSpec", "Sam2ImagePredictor", "draw_box_prompt", "load_clip", "load_sam2",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f"pipeline.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
