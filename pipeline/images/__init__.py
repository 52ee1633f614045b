"""One reader for every image: `read_image`, `read_mask`, `probe`. Rules: `pipeline.images.read`."""

from pipeline.images.kinds import SUFFIXES, has_image_suffix, is_junk, sniff
from pipeline.images.patient import patient_code
from pipeline.images.raster import encode_png
from pipeline.images.read import (
    READER_VERSION,
    inspect_image,
    probe,
    read_image,
    read_mask,
    reader_rules,
    to_voxels,
)
from pipeline.images.types import DICOMDIR_REASON, MAX_PIXELS, FrameInfo, SkippedFile

__all__ = [
    "DICOMDIR_REASON", "MAX_PIXELS", "READER_VERSION", "SUFFIXES", "FrameInfo", "SkippedFile",
    "encode_png", "has_image_suffix", "inspect_image", "is_junk", "patient_code", "probe",
    "read_image", "read_mask", "reader_rules", "sniff", "to_voxels",
]  # fmt: skip
