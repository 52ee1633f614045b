"""Where CLIP sees what a class's prompts say: patch-text similarity laid over images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.models import ModelSpec
from pipeline.report import select
from pipeline.report.cases import image_cases
from pipeline.report.gallery import OUTLINES, Album, Gallery, Picture, spread
from pipeline.report.inputs import DatasetInputs
from pipeline.report.overlay import data_uri, draw_heat
from pipeline.report.page import Section, Text

TEXT = (
    "How similar each place of an image is to the text of its true class (averaged over the "
    "templates), from dark blue (least) to yellow (most), each image on its own scale. CLIP's "
    "patches were not trained to be compared with texts: read tendencies, not borders. " + OUTLINES
)


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show maps for a few test images; None without features or when `heatmaps` is 0.

    The one section that needs a model: without its checkpoint it says so.
    """
    if not params.report.heatmaps or found.features is None or found.manifest is None:
        return None
    made = Section("heatmaps", "Where the text is seen", [Text(TEXT)])
    try:
        clip = _clip(params.models.clip)
        pictures = heat_pictures(found, album, params, clip)
    except PipelineError as error:
        made.blocks.append(Text(f"No heat maps: {error}", "warning"))
        return made
    if not pictures:
        return None
    made.blocks.append(Gallery("", pictures, pairs=True))
    return made


def heat_pictures(found: DatasetInputs, album: Album, params: Params, clip) -> list[Picture]:
    """Return, for each chosen image, the image itself and its map for the true class."""
    from pipeline.encode.heatmap import patch_similarity

    labels = found.manifest.set_index("image_id")["label"]
    classes = list(found.features.classes)
    texts = np.asarray(found.features.class_features())
    pictures = []
    for image_id in _chosen(found, params.report.heatmaps):
        label = labels[image_id]
        if label not in classes:
            continue
        try:
            image = album.image(image_id)
        except (PipelineError, OSError) as error:
            pictures.append(Picture(image_id, "", note=f"cannot be shown: {error}"))
            continue
        text = texts[classes.index(label)]
        heat = patch_similarity(clip, image, text, params.encode.geometry, params.encode.fill)
        low, high = np.nanmin(heat), np.nanmax(heat)
        pictures.append(album.picture(image_id, label))
        pictures.append(
            Picture(
                image_id,
                data_uri(draw_heat(image, heat, size=album.size)),
                f"similarity to “{label}”: {low:.2f} to {high:.2f}",
                alt=f"heat map of {image_id} for {label}",
            )
        )
    return pictures


def _chosen(found: DatasetInputs, count: int) -> list[str]:
    """Choose images from the worst to the best of the reference run, else the first ones."""
    if found.metrics is not None:
        table = select.over_seeds(found.metrics, "official", "full")
        fractions = select.fractions_of(table)
        for run in select.reference_runs(table) if fractions else []:
            cases = image_cases(found, "official", *run, fractions[-1])
            if cases is not None:
                known = cases[cases.index.isin(found.manifest["image_id"])]
                return spread(list(known.sort_values("p_true", kind="stable").index), count)
    return list(found.manifest["image_id"].head(count))


@lru_cache(maxsize=1)
def _clip(spec: ModelSpec):
    from pipeline.models import load_clip

    return load_clip(spec)
