"""Specification of a model: its configuration, its checkpoint and the checkpoint's hash."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModelSpec(BaseModel):
    """A model to load.

    Args:
        name: name of a configuration: "sam2-micro", "sam2.1_hiera_large", "clip-micro", or one of
            open_clip, such as "ViT-B-16".
        checkpoint: a local path, "package" (weights shipped with the embedded models),
            "hf-hub:org/name", or an open_clip pretrained tag.
        sha256: checked if given; the actual hash is recorded in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
