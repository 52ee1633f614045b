"""One reader for every image: `read_image`, `read_mask`, `probe`. Rules: `pipeline.images.read`."""

from pipeline.images.kinds import SUFFIXES, has_image_suffix, is_junk, sniff
from pipeline.images.raster import encode_png
from pipeline.images.read import READER_VERSION, probe, read_image, read_mask, reader_rules
from pipeline.images.types import MAX_PIXELS, FrameInfo, SkippedFile

__all__ = [
    "MAX_PIXELS",
    "READER_VERSION",
    "SUFFIXES",
    "FrameInfo",
    "SkippedFile",
    "encode_png",
    "has_image_suffix",
    "is_junk",
    "probe",
    "read_image",
    "read_mask",
    "reader_rules",
    "sniff",
]
