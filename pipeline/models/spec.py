"""Which model to load: the name of a configuration, its checkpoint, and the checkpoint's hash."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModelSpec(BaseModel):
    """A model, named.

    Args:
        name: a configuration: "sam2-micro", "sam2.1_hiera_large", "clip-micro", or any name
            that open_clip knows, such as "ViT-B-16".
        checkpoint: a local path, "package" (weights shipped with the embedded models),
            "hf-hub:org/name", or an open_clip pretrained tag.
        sha256: checked where given; the hash found is recorded either way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
