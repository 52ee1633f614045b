"""One reader for every image: `read_image`, `read_mask`, `probe`. Rules: `pipeline.images.read`."""

from pipeline.images.formats import DICOMDIR_REASON as DICOMDIR_REASON
from pipeline.images.formats import FrameInfo as FrameInfo
from pipeline.images.formats import SkippedFile as SkippedFile
from pipeline.images.formats import conversion as conversion
from pipeline.images.formats import has_image_suffix as has_image_suffix
from pipeline.images.formats import is_junk as is_junk
from pipeline.images.formats import sniff as sniff
from pipeline.images.read import dicom_capture as dicom_capture
from pipeline.images.read import image_bytes as image_bytes
from pipeline.images.read import patient_code as patient_code
from pipeline.images.read import probe as probe
from pipeline.images.read import read_image as read_image
from pipeline.images.read import read_mask as read_mask
from pipeline.images.read import reader_rules as reader_rules
from pipeline.images.read import to_voxels as to_voxels
from pipeline.images.region import Ambiguous as Ambiguous
from pipeline.images.region import MaskRule as MaskRule
