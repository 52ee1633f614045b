"""The CLIP that made stored features, loaded again by a learner that needs its towers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from pipeline.config import ModelSpec
from pipeline.errors import ModelError
from pipeline.models import ClipModel, load_clip
from pipeline.models.clip import RUNTIME
from pipeline.store.items import identity_diff

REMEDY = "run pipeline encode, then train again, or set the profile's `clip` back"


def load_clip_again(spec: ModelSpec, fingerprint: Mapping[str, Any]) -> ClipModel:
    """Return the CLIP of a profile, on the CPU, loaded once in a process.

    Args:
        spec: the CLIP to load.
        fingerprint: what the feature store says of the CLIP that made it.

    Raises:
        ModelError: weights are missing, or they are not those that made the features.
    """
    with torch.random.fork_rng(devices=[]):  # building it draws random numbers
        clip = _load(spec)
    made_by = {key: value for key, value in fingerprint.items() if key != RUNTIME}
    if differences := identity_diff(made_by, clip.fingerprint):
        message = f"is not the CLIP that made the features: {'; '.join(differences)}"
        raise ModelError(message, path=spec.name, remedy=REMEDY)
    return clip


_load = lru_cache(maxsize=1)(load_clip)
