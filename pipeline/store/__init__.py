"""The two stores, masks.zarr and features.zarr: read by image_id, written by one process."""

from pipeline.store.convert import convert_store
from pipeline.store.items import FeatureRow, MaskRow, WorkItem
from pipeline.store.reader import FeatureStore, MaskStore, open_features, open_masks, verify_store
from pipeline.store.writer import FeatureStoreWriter, MaskStoreWriter, write_shard

__all__ = [
    "FeatureRow",
    "FeatureStore",
    "FeatureStoreWriter",
    "MaskRow",
    "MaskStore",
    "MaskStoreWriter",
    "WorkItem",
    "convert_store",
    "open_features",
    "open_masks",
    "verify_store",
    "write_shard",
]
