"""Stage 2, I = E_v(x * m) and T = E_t(t): CLIP features of several views of every image."""

from typing import TYPE_CHECKING, Any

__all__ = ["EncodeMapper", "encode_dataset", "encode_images", "patch_similarity"]

if TYPE_CHECKING:
    from pipeline.encode.encode import encode_dataset
    from pipeline.encode.heatmap import patch_similarity
    from pipeline.encode.mapper import EncodeMapper, encode_images


def __getattr__(name: str) -> Any:
    # Lazy, so that naming a view or a fill does not load torch.
    if name == "encode_dataset":
        from pipeline.encode.encode import encode_dataset

        return encode_dataset
    if name in ("EncodeMapper", "encode_images"):
        from pipeline.encode import mapper

        return getattr(mapper, name)
    if name == "patch_similarity":
        from pipeline.encode.heatmap import patch_similarity

        return patch_similarity
    raise AttributeError(f"module 'pipeline.encode' has no attribute {name!r}")
