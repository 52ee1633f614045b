"""What of SAM2 a method trains. All train the mask decoder and the embedding of "no prompt".

- `decoder`: nothing else. J. Ma et al., Segment anything in medical images (MedSAM),
  arXiv:2304.12306.
- `lora`: also W' = W + B A of rank r in each projection of the image encoder, B = 0 at the start.
  E. Hu et al., LoRA, arXiv:2106.09685; K. Zhang and D. Liu, SAMed, arXiv:2304.13785.
- `adapter`: also y' = y + U gelu(D y) of width r after each block of the trunk, U = 0 at the start.
  T. Chen et al., SAM-Adapter, arXiv:2304.09148; J. Wu et al., Medical SAM Adapter (MSA),
  arXiv:2304.12620.
- `full`: the whole model, but the statistics of its batch normalisation.

A hierarchical transformer (Hiera) has its projections in linear layers, a convolutional trunk in
convolutions of 1 x 1 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from pipeline.models.trunk import TimmTrunk

METHODS = ("decoder", "lora", "adapter", "full")


def insert(model: SAM2Base, method: str, rank: int) -> Callable[[], object]:
    """Insert in place what `method` adds to a model, without changing its masks, and mark what it
    trains by `requires_grad`; new weights are drawn from torch's global generator.

    Args:
        model: a SAM2 in evaluation mode.
        method: of `METHODS`.
        rank: r of `lora` and `adapter`.

    Returns:
        What has to be called once the weights are as wanted, before masks are made: it merges the
        products B A of `lora` into the weights, and does nothing for the others.
    """
    finish: Callable[[], object] = lambda: None  # noqa: E731
    model.requires_grad_(method == "full")
    # The single mask is trained to be the answer; choosing another one where it is unstable is for
    # prompts with several meanings.
    model.sam_mask_decoder.dynamic_multimask_via_stability = False
    if method == "lora":
        from peft import LoraConfig, LoraModel  # takes a second

        names = projections(model)
        # r / alpha is 1: the learning rate alone decides the size of the update.
        tuner = LoraModel(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=names), "own")
        finish = tuner.merge_and_unload
    elif method == "adapter":
        add_bottlenecks(model, rank)
    model.sam_mask_decoder.requires_grad_(True)
    model.sam_prompt_encoder.no_mask_embed.requires_grad_(True)
    return finish


def trained(model: SAM2Base) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def projections(model: SAM2Base) -> list[str]:
    """Return the names of the layers of the image encoder that `lora` updates: those of attention
    (queries, keys and values in one, and the output), or convolutions of 1 x 1 pixels."""
    named = list(model.image_encoder.trunk.named_modules(prefix="image_encoder.trunk"))
    linear = [name for name, _ in named if name.endswith((".attn.qkv", ".attn.proj"))]
    pointwise = [
        name
        for name, layer in named
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    ]
    return linear or pointwise


class Bottleneck(nn.Module):
    """y + U gelu(D y), over the channels of maps (n, h, w, c), or (n, c, h, w) with `first`."""

    def __init__(self, channels: int, width: int, first: bool):
        super().__init__()
        self.first = first
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, y: Tensor) -> Tensor:
        inner = y.movedim(1, -1) if self.first else y
        change = self.up(nn.functional.gelu(self.down(inner)))
        return y + (change.movedim(-1, 1) if self.first else change)


def add_bottlenecks(model: SAM2Base, width: int) -> None:
    """Put a `Bottleneck` after each block of the trunk, as `image_encoder.bottlenecks`."""
    trunk = model.image_encoder.trunk
    first = isinstance(trunk, TimmTrunk)
    stages = trunk.body.blocks if first else trunk.blocks
    blocks = [b for s in stages for b in (s if isinstance(s, nn.Sequential) else [s])]
    channels: list[int] = []
    watch = [
        block.register_forward_hook(lambda *of: channels.append(of[2].shape[1 if first else -1]))
        for block in blocks
    ]
    weight = next(trunk.parameters())
    with torch.no_grad():  # the trunk itself says how wide its blocks are
        trunk(torch.zeros(1, 3, model.image_size, model.image_size, device=weight.device))
    for hook in watch:
        hook.remove()
    added = nn.ModuleList(Bottleneck(c, width, first) for c in channels).to(weight.device)
    for block, bottleneck in zip(blocks, added, strict=True):
        block.register_forward_hook(lambda _, x, y, add=bottleneck: add(y))
    model.image_encoder.bottlenecks = added
