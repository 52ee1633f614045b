"""Fine-tuned backbones of timm: the whole network is trained on the images, with no CLIP."""

from __future__ import annotations

from typing import Annotated, Self

import timm
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from pipeline.config import ModelSpec
from pipeline.io import sha256_file
from pipeline.learners.base import Samples, register
from pipeline.learners.on_pixels import OnPixels, OnPixelsParams
from pipeline.models.checkpoint import find_checkpoint, lite0_state

EMBEDDED = "tf_efficientnet_lite0"


def _known(name: str) -> str:
    if name != "embedded" and not timm.is_model(name):
        raise ValueError("must be embedded or a model of timm, such as resnet50")
    return name


class BackboneParams(OnPixelsParams):
    """A network that is trained as a whole."""

    backbone: Annotated[str, AfterValidator(_known)] = "embedded"
    """Model of timm, or embedded: EfficientNet-Lite0 with the weights of the package."""
    checkpoint: str | None = None
    """Weights of a model of timm: a path, from the folder of params.yaml, or
    hf-hub:organisation/name; None: it is trained from scratch."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Of the checkpoint; required with it, so that a fit is of these weights."""
    image_size: int | None = Field(None, ge=32)
    """Side of the frames, pixels; None: that of the model, for embedded 128, which is three times
    as fast as its own 224."""
    learning_rate: float = Field(3e-4, gt=0)
    """Learning rate of AdamW, which falls to zero along a cosine."""
    augment: bool = True
    """Whether training images are flipped, turned, shifted and changed in contrast at random."""

    @model_validator(mode="after")
    def _weights_are_stated(self) -> Self:
        if (self.checkpoint is None) != (self.sha256 is None):
            raise ValueError("checkpoint and sha256 belong together")
        if self.backbone == "embedded" and self.checkpoint is not None:
            raise ValueError("the embedded backbone has its own weights; remove checkpoint")
        return self


class Network(nn.Module):
    """A trunk of timm and a linear head, which starts at zero: no order of classes is preferred."""

    def __init__(self, name: str, size: int, n_classes: int):
        super().__init__()
        about = timm.get_pretrained_cfg(name)
        self.mean, self.std = about.mean, about.std
        fixed = {"img_size": size} if about.fixed_input_size else {}
        trunk = timm.create_model(name, pretrained=False, num_classes=0, **fixed)
        # Convolutions are faster in this layout; transformers do not mind.
        self.trunk = trunk.to(memory_format=torch.channels_last)
        self.head = nn.Linear(self.trunk.head_hidden_size, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (n, C) of images (n, 3, s, s)."""
        return self.head(self.trunk(images))


@register("fine-tuned")
class FineTunedBackbone(OnPixels):
    """A backbone of timm, fine-tuned with cross-entropy: the rows of the paper without CLIP.

    ResNet-50, Res2Net-50, ViT-B/16 and Swin-T are those of tables I to IV of MedFocusCLIP: sections
    of this `kind` with `backbone: resnet50`, res2net50_26w_4s, vit_base_patch16_224 or
    swin_tiny_patch4_window7_224. Every parameter is trained by AdamW along a cosine, on augmented
    images (`pipeline.learners.on_pixels.augmented`); the validation part chooses the epoch.
    `chosen` says where the weights came from. Matrices of a saved fit are float16.
    """

    Parameters = BackboneParams
    needs_text = False
    half = True

    def frame_size(self, of_model: int) -> int:
        """Return the side of the frames."""
        own = self.params
        if own.image_size is None and own.backbone == "embedded":
            return 128
        return own.image_size or timm.get_pretrained_cfg(own.backbone).input_size[-1]

    def build(self, samples: Samples) -> nn.Module:
        """Return the network."""
        name = EMBEDDED if self.params.backbone == "embedded" else self.params.backbone
        return Network(name, samples.pixels.size, len(samples.text))

    def begin(self, network: nn.Module, train: Samples) -> None:
        """Load the weights of the trunk.

        Raises:
            ModelError: the checkpoint is missing, damaged, or of another model or hash.
        """
        trunk, own = network.trunk, self.params
        self.chosen["weights"] = "from scratch"
        if own.backbone == "embedded":
            trunk.load_state_dict(lite0_state(list(trunk.state_dict())))
            self.chosen["weights"] = "package"
        elif own.checkpoint is not None:
            spec = ModelSpec(name=own.backbone, checkpoint=own.checkpoint, sha256=own.sha256)
            spec._folder = train.pixels.spec._folder
            advice = "download the weights of this model, such as those of timm on the hub,"
            checkpoint = find_checkpoint(spec, "model.safetensors", advice)
            checkpoint.check_sha256(sha256_file(checkpoint.path), own.sha256)
            names = trunk.state_dict()  # without the head, which is for other classes
            state = {name: of for name, of in checkpoint.read().items() if name in names}
            checkpoint.load_into(trunk, state, "num_batches_tracked")
            self.chosen["weights"] = own.checkpoint
