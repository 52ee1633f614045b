"""CLIPSeg of transformers: a map of where in an image a text is.

Lüddecke and Ecker, "Image segmentation using text and image prompts", arXiv:2112.10003.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
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

    Its texts are read by CLIP's own tokenizer, whose vocabulary every CLIPSeg has.
    """

    def __init__(self, model: CLIPSegForImageSegmentation, processor: ViTImageProcessor):
        self.model, self.processor = model, processor
        length = model.config.text_config.max_position_embeddings
        self.tokenizer = SimpleTokenizer(context_length=length)
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        shown = ("size", "resample", "image_mean", "image_std", "rescale_factor")
        self.fingerprint: dict[str, Any] = {
            "weights": digest.hexdigest(),
            "preprocess": {name: processor.to_dict()[name] for name in shown},
            "code": CODE_VERSION,
            "transformers": version("transformers"),
        }

    @torch.inference_mode()
    def maps(self, image: np.ndarray, texts: Sequence[str]) -> torch.Tensor:
        """Return logits, float32 (n, s, s), of where in an image, uint8 (h, w, 3), each of n texts
        is; the image is stretched to a square."""
        pixels = self.processor(
            image.copy(), return_tensors="pt", input_data_format="channels_last"
        )
        pixels, ids = pixels["pixel_values"].to(self.model.device), self.tokenizer(list(texts))
        # What pads a text comes after its end, where CLIP's causal attention does not see it.
        found = self.model(
            pixel_values=pixels.expand(len(ids), -1, -1, -1), input_ids=ids.to(self.model.device)
        )
        return found.logits.reshape(len(ids), *found.logits.shape[-2:])


@cache
def load_clipseg(name: str, device: str = "cpu") -> ClipSeg:
    """Load a CLIPSeg in fp32, once in a process; nothing is downloaded.

    Args:
        name: a folder with config.json, preprocessor_config.json and model.safetensors, or a
            repository that is in the cache of the hub.
        device: torch device.

    Raises:
        ModelError: there is no such folder and no such repository in the cache, or it has no
            CLIPSeg.
    """
    logging.disable_progress_bar()
    try:
        processor = ViTImageProcessor.from_pretrained(name, local_files_only=True)
        model, told = CLIPSegForImageSegmentation.from_pretrained(
            name, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        lost = [key for key in told["missing_keys"] if not key.endswith("position_ids")]
        problem = f"this CLIPSeg lacks {len(lost)} weights" if lost else ""
    except Exception as error:  # of transformers, the hub and safetensors
        problem = f"no CLIPSeg is in this folder or cache of the hub ({type(error).__name__})"
    if problem:
        remedy = "run: hf download CIDAS/clipseg-rd64-refined --local-dir checkpoints/clipseg, and "
        remedy += "set segment.clipseg to checkpoints/clipseg"
        raise ModelError(problem, path=name, remedy=remedy)
    return ClipSeg(model.float().to(device).eval().requires_grad_(False), processor)
