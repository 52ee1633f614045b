"""SAM2 fine-tuned on a few ground-truth masks: an adapter file and a variant of the masks."""

# ruff: noqa: F401
from pipeline.adapt.adapt import adapt_dataset
