"""The leak audit: copies among the images of a dataset, or of two datasets."""

from pipeline.audit.audit import across_text as across_text
from pipeline.audit.audit import audit_dataset as audit_dataset
from pipeline.audit.audit import audit_text as audit_text
from pipeline.audit.audit import compare_datasets as compare_datasets
