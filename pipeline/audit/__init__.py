"""The leak audit: copies among the images of a dataset, or of two datasets."""

from pipeline.audit.audit import audit_dataset, compare_datasets
from pipeline.audit.text import across_text, audit_text

__all__ = ["across_text", "audit_dataset", "audit_text", "compare_datasets"]
