"""MedFocusCLIP as software: few-shot classification of medical images on masked CLIP features.

from pipeline import open_features, open_masks
features = open_features("cache/brain/features.zarr")
X, y = features.xy(view="masked", split="train")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "open_candidates", "open_features", "open_masks"]

if TYPE_CHECKING:
    from pipeline.store import open_candidates, open_features, open_masks


def __getattr__(name: str) -> Any:
    # Lazy, so that `pipeline --help` pays for no array library.
    if name in __all__:
        from pipeline import store

        return getattr(store, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
