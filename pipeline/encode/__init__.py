"""Stage 2, I = E_v(x * m) and T = E_t(t): CLIP features of several views of every image."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.encode.encode import encode_dataset
    from pipeline.encode.heatmap import patch_similarity
    from pipeline.encode.mapper import EncodeMapper, encode_images

_MODULES = {
    "EncodeMapper": "mapper",
    "encode_dataset": "encode",
    "encode_images": "mapper",
    "patch_similarity": "heatmap",
}
__all__ = ["EncodeMapper", "encode_dataset", "encode_images", "patch_similarity"]


def __getattr__(name: str) -> Any:
    # Lazy, so that naming a view or a fill does not load torch.
    if name in _MODULES:
        return getattr(import_module(f"pipeline.encode.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pipeline.encode' has no attribute {name!r}")
