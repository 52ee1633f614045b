"""No prediction is evaluated on an image that the adapter of its masks has learned from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.errors import PipelineError, shown
from pipeline.learners.variants import seen_by
from pipeline.paths import Paths
from pipeline.store import open_features


def check_unseen(
    tested: Mapping[str, np.ndarray], units: Mapping[str, str], dataset: str, paths: Paths
) -> None:
    """Raise PipelineError where a test image belongs with one that an adapter has learned from.

    Args:
        tested: part of a variant of the masks, such as `lora-16/0`, to the ids of all images that
            are tested on features made with it.
        units: of each image id: its patient, group, file and copies (`splits.grouping.units`).
        dataset, paths: where the features are. Their identity names the images that were seen.
    """
    for part, ids in tested.items():
        path = paths.features(dataset, part)
        learned = {units.get(image_id, image_id) for image_id in seen_by(open_features(path))}
        if leaked := sorted(i for i in set(ids) if units.get(i, i) in learned):
            raise PipelineError(
                f"{len(leaked)} test images belong with images whose masks the adapter of {part} "
                f"has learned from (same image, patient, group, file or copy): {shown(leaked)}",
                path=path,
                remedy=f"run adapt, encode --masks and train again for {dataset}, with the splits "
                "and the leak audit as they are now",
            )
