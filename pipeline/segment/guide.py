"""CLIP and the words of a dataset, for strategies that look for a region by its description.

data_manifests/prompts.yaml says what to look for in every image of a dataset, and what else it has:

    regions:
      breast: {object: [a lesion in the breast], background: [breast tissue, skin]}

The words are the same for all images and name no class, so that a mask cannot tell the label.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
import yaml
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.models import ClipModel  # slow to import

Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class Words(BaseModel):
    """What to look for in every image of a dataset, and what else is in them."""

    model_config = {"frozen": True, "extra": "forbid"}
    object: Texts
    background: Texts


class _File(BaseModel):
    regions: Mapping[str, Words] = {}


def read_words(path: Path, dataset: str, classes: Collection[str] = ()) -> Words:
    """Read the words of a dataset from prompts.yaml, those of `default` if it has none.

    Raises:
        ConfigError: the file cannot be read, there are no words, or they name one of `classes`.
    """
    remedy = f"write regions.{dataset} such as {{object: [a lesion], background: [tissue]}}"
    try:
        text = path.read_text(encoding="utf-8")
        regions = _File.model_validate(yaml.load(text, Loader=yaml.BaseLoader)).regions
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        problem = f"its regions cannot be read: {' '.join(str(error).split())}"
        raise ConfigError(problem, path=path, remedy=remedy) from None
    if (words := regions.get(dataset) or regions.get("default")) is None:
        raise ConfigError(f"no words to look for in {dataset}", path=path, remedy=remedy)
    said = set(re.findall(r"\w+", " ".join((*words.object, *words.background)).casefold()))
    if named := [name for name in classes if said.issuperset(re.findall(r"\w+", name.casefold()))]:
        problem = f"regions: the words for {dataset} name a class ({', '.join(named)})"
        remedy = "describe what all images show, whatever their class"
        raise ConfigError(problem, path=path, remedy=remedy)
    return words


@dataclass(frozen=True)
class Guide:
    """The words of a dataset and, for strategies that ask for it, the CLIP that compares images
    with them."""

    words: Words
    clip: ClipModel | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that decides a comparison."""
        found: dict[str, Any] = {"words": self.words.model_dump(mode="json")}
        if self.clip:
            found |= {"clip": self.clip.fingerprint, "clip_precision": self.clip.precision}
        return found

    def preprocess(self, pictures: Sequence[Tensor]) -> Tensor:
        """Stretch pictures, float32 (3, h, w) in [0, 1], to CLIP's input and normalise them:
        float32 (n, 3, size, size). Stretched, since cropping or padding would move positions."""
        clip = self.clip
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip.mean, clip.std))
        size, how = (clip.image_size,) * 2, {"mode": clip.interpolation, "antialias": True}
        resized = [F.interpolate(one[None], size, **how)[0].clamp(0, 1) for one in pictures]
        return (torch.stack(resized) - mean) / std

    def contrast(self, features: Tensor) -> Tensor:
        """Return cos(feature, object) - cos(feature, background) of CLIP features (..., d)."""
        return F.normalize(features, dim=-1) @ self._direction

    @cached_property
    def _direction(self) -> Tensor:
        means = []
        for texts in (self.words.object, self.words.background):
            features = F.normalize(self.clip.encode_text(list(texts)), dim=-1)
            means.append(F.normalize(features.mean(dim=0), dim=-1))
        return means[0] - means[1]
