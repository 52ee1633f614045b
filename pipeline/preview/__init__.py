"""Contact sheets of what the models will see, with a warning where a picture looks odd."""

from pipeline.preview.sheet import preview_dataset

__all__ = ["preview_dataset"]
