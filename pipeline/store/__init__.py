"""The stores of masks, of what they are made of, and of features: read by image_id, written by one
process."""

# ruff: noqa: F401
from pipeline.store.items import CandidateRow, EmbeddingRow, FeatureRow, MaskRow, WorkItem
from pipeline.store.reader import (
    CandidateStore,
    EmbeddingStore,
    FeatureStore,
    MaskStore,
    open_candidates,
    open_features,
    open_masks,
    verify_store,
)
from pipeline.store.writer import (
    CandidateStoreWriter,
    EmbeddingStoreWriter,
    FeatureStoreWriter,
    MaskStoreWriter,
    convert_store,
)
