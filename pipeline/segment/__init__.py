"""Stage 1, m = SAM2(x): a mask for every image, found by a prompt strategy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["SegmentMapper", "measure_prompts", "segment_dataset", "segment_images"]

if TYPE_CHECKING:
    from pipeline.segment.prompt_quality import measure_prompts
    from pipeline.segment.segment import SegmentMapper, segment_dataset, segment_images


def __getattr__(name: str) -> Any:
    # Lazy, so that reading a strategy's name or a quality measure does not load torch.
    if name in __all__:
        module = "prompt_quality" if name == "measure_prompts" else "segment"
        return getattr(import_module(f"pipeline.segment.{module}"), name)
    raise AttributeError(f"module 'pipeline.segment' has no attribute {name!r}")
