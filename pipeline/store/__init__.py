"""The stores of masks, candidates and features: read by image_id, written by one process."""

# ruff: noqa: F401
from pipeline.store.items import CandidateRow, FeatureRow, MaskRow, WorkItem
from pipeline.store.reader import (
    CandidateStore,
    FeatureStore,
    MaskStore,
    open_candidates,
    open_features,
    open_masks,
    verify_store,
)
from pipeline.store.writer import (
    CandidateStoreWriter,
    FeatureStoreWriter,
    MaskStoreWriter,
    convert_store,
)
