"""The two stores: masks.zarr and features.zarr. Read by id, written by one writer at a time."""

from pipeline.stores.feature_writer import FeatureStoreWriter
from pipeline.stores.features import FeatureStore, open_features
from pipeline.stores.masks import MaskStore, MaskStoreWriter, open_masks
from pipeline.stores.rows import FeatureRow, MaskRow
from pipeline.stores.verify import VerifyReport, verify_store

__all__ = [
    "FeatureRow",
    "FeatureStore",
    "FeatureStoreWriter",
    "MaskRow",
    "MaskStore",
    "MaskStoreWriter",
    "VerifyReport",
    "open_features",
    "open_masks",
    "verify_store",
]
