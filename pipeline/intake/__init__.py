"""From a folder, table or zip of images to a manifest."""

from pipeline.intake.add import add_dataset, refresh_dataset
from pipeline.intake.summary import AddSummary

__all__ = ["AddSummary", "add_dataset", "refresh_dataset"]
