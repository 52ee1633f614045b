"""The two stores, masks.zarr and features.zarr: read by image_id, written by one process."""

# ruff: noqa: F401
from pipeline.store.items import FeatureRow, MaskRow, WorkItem
from pipeline.store.reader import FeatureStore, MaskStore, open_features, open_masks, verify_store
from pipeline.store.writer import FeatureStoreWriter, MaskStoreWriter, convert_store
