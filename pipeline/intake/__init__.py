"""From a folder, a table or a zip of images to a manifest."""

from pipeline.intake.add import AddSummary, add_dataset, refresh_dataset

__all__ = ["AddSummary", "add_dataset", "refresh_dataset"]
