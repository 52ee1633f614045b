"""SAM2 and CLIP models: configurations and loading. Importing this package does not import torch.

from pipeline.models import ModelSpec, load_clip, load_sam2
predictor = load_sam2(ModelSpec(name="sam2-micro"))
"""

import importlib
from typing import Any

from pipeline.config import ModelSpec as ModelSpec

_MODULES = {"load_sam2": "sam2", "Sam2ImagePredictor": "sam2", "load_clip": "clip",
            "ClipModel": "clip", "draw_box_prompt": "prompts"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"pipeline.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
