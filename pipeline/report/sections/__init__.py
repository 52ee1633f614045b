"""The sections of a dataset, one module each, in the order of the page."""

from pipeline.report.sections import (
    calibration,
    confusion,
    curves,
    dice_effect,
    failures,
    flips,
    heatmaps,
    identity,
    leaks,
    mask_quality,
    masks_gallery,
    per_class,
    quoted,
    scores,
    timings,
)

# These show predictions of the published split alone; the page says so beside their headings.
PUBLISHED_ONLY = ("flips", "gallery", "confusion", "calibration")
DATASET_SECTIONS = (
    curves.section,
    scores.section,
    quoted.section,
    flips.section,
    masks_gallery.section,
    mask_quality.section,
    dice_effect.section,
    heatmaps.section,
    per_class.section,
    confusion.section,
    calibration.section,
    leaks.section,
    failures.section,
    timings.section,
    identity.section,
)
