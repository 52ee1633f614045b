"""Stage 1, m = SAM2(x): a mask for every image, by a named prompt strategy."""

from typing import TYPE_CHECKING, Any

__all__ = ["SegmentMapper", "segment_dataset", "segment_images"]

if TYPE_CHECKING:
    from pipeline.segment.mapper import SegmentMapper, segment_images
    from pipeline.segment.segment import segment_dataset


def __getattr__(name: str) -> Any:
    # Lazy, so that reading a strategy's name or a quality measure does not load torch.
    if name == "segment_dataset":
        from pipeline.segment.segment import segment_dataset

        return segment_dataset
    if name in ("SegmentMapper", "segment_images"):
        from pipeline.segment import mapper

        return getattr(mapper, name)
    raise AttributeError(f"module 'pipeline.segment' has no attribute {name!r}")
