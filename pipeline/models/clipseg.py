"""CLIPSeg of transformers: a map of where in an image a text is, and its loading."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPSegForImageSegmentation, ViTImageProcessor
from transformers.utils import logging

from pipeline.errors import ModelError

CODE_VERSION = 1
"""Increased whenever the maps of a CLIPSeg change; part of the identity of mask stores."""


class ClipSeg:
    """A CLIPSeg with its image processor, in evaluation mode.

    Its texts are read by CLIP's own tokenizer, whose vocabulary all CLIPSeg have.
    """

    def __init__(self, model: CLIPSegForImageSegmentation, processor: ViTImageProcessor):
        self.model, self.processor = model, processor
        self.tokenizer = SimpleTokenizer(
            context_length=model.config.text_config.max_position_embeddings
        )
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        shown = ("size", "resample", "image_mean", "image_std", "rescale_factor")
        self.fingerprint: dict[str, Any] = {
            "kind": "clipseg",
            "weights": digest.hexdigest(),
            "preprocess": {name: processor.to_dict()[name] for name in shown},
            "code": CODE_VERSION,
            "transformers": version("transformers"),
        }

    @torch.inference_mode()
    def maps(self, image: np.ndarray, texts: Sequence[str]) -> torch.Tensor:
        """Return logits, float32 (n, s, s), of where in an image, uint8 (h, w, 3), each of n texts
        is; the image is stretched to a square."""
        device = self.model.device
        pixels = self.processor(image, return_tensors="pt")["pixel_values"].to(device)
        ids = self.tokenizer(list(texts)).to(device)
        logits = self.model(
            pixel_values=pixels.expand(len(texts), -1, -1, -1),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
        ).logits
        return logits.float().reshape(len(texts), *logits.shape[-2:])


@cache
def load_clipseg(name: str, device: str = "cpu") -> ClipSeg:
    """Load a CLIPSeg once in a process.

    Args:
        name: a folder with config.json, model.safetensors and preprocessor_config.json, or a
            repository of the hub.
        device: torch device.

    Raises:
        ModelError: there is no such folder or repository, or it has no CLIPSeg.

    Source: T. Lüddecke and A. Ecker, arXiv:2112.10003.
    """
    logging.disable_progress_bar()
    try:
        processor = ViTImageProcessor.from_pretrained(name)
        model, told = CLIPSegForImageSegmentation.from_pretrained(
            name, use_safetensors=True, output_loading_info=True
        )
        if lost := [key for key in told["missing_keys"] if "position_ids" not in key]:
            raise ValueError(f"{len(lost)} weights are missing")
    except Exception as error:  # of transformers, the hub and safetensors
        local = Path(name).is_dir()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"no CLIPSeg comes from {'this folder' if local else 'the hub'} ({reason})"
        remedy = "download config.json, preprocessor_config.json and model.safetensors of "
        remedy += "https://huggingface.co/CIDAS/clipseg-rd64-refined into a folder in checkpoints/ "
        raise ModelError(message, path=name, remedy=remedy + "and name it as segment.clipseg") from None
    return ClipSeg(model.float().to(device).eval().requires_grad_(False), processor)
