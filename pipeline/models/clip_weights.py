"""Where a CLIP's weights come from, and how they get into the model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from pipeline.errors import ModelError
from pipeline.models.checkpoint import (
    check_sha256,
    find_checkpoint,
    hub_repository,
    load_into,
    read_state,
)
from pipeline.models.sources import LITE0_SHA256, MINILM_SHA256, lite0_state
from pipeline.models.spec import ModelSpec

PROJECTION = "text.proj.weight"


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found.

    Args:
        path: the file; None for the parts of CLIP-micro.
        get: what to download and from where, for messages.
        quick_gelu: the activation that a tag or a configuration beside the file demands, None
            where the named configuration decides.
        preprocess: mean, std, interpolation demanded likewise.
        projection: of CLIP-micro, the file in place of the shipped one, where one is named.
    """

    path: Path | None
    get: str
    quick_gelu: bool | None = None
    preprocess: dict[str, Any] = field(default_factory=dict)
    projection: Path | None = None


def resolve_checkpoint(spec: ModelSpec, config: dict[str, Any]) -> Found:
    """Find the file that a spec's `checkpoint` names.

    Args:
        spec: the model.
        config: its configuration.

    Raises:
        ModelError: nothing is named, or what is named cannot be had; says what to download.
    """
    base = spec.name.removesuffix("-quickgelu")
    hub = get_pretrained_cfg(base, "openai").get("hf_hub", "").strip("/")
    source = (
        f"https://huggingface.co/{hub}"
        if hub
        else "https://huggingface.co/models?library=open_clip"
    )
    get = f"download open_clip_model.safetensors from {source}"
    micro = config["text_cfg"].get("hf_model_name", "").startswith("package:")
    if micro:
        get = "restore pipeline/models/weights from git or run `python -m tools.pretrain`"
    if spec.checkpoint in (None, "package"):
        if micro:
            return Found(None, get)
        raise ModelError(
            f"no checkpoint is given for {spec.name}",
            remedy=f"{get} and set `checkpoint` in params.yaml to where it lies",
        )
    if spec.checkpoint.startswith("hf-hub:"):
        repo = hub_repository(spec.checkpoint)
        get = f"download open_clip_model.safetensors from https://huggingface.co/{repo}"
        path = _from_hub(repo, get)
        with contextlib.suppress(Exception):  # not every repository states its configuration
            _from_hub(repo, get, "open_clip_config.json")
        return Found(path, get, *_stated_beside(path))
    tag = get_pretrained_cfg(spec.name, spec.checkpoint)
    if tag:
        repo = tag.get("hf_hub", "").strip("/")
        get = f"download open_clip_model.safetensors from https://huggingface.co/{repo}"
        demands = {k: tag[k] for k in ("mean", "std", "interpolation") if k in tag}
        return Found(_from_hub(repo, get), get, bool(tag.get("quick_gelu", False)), demands)
    tags = ", ".join(list_pretrained_tags_by_model(spec.name)[:6])
    looks_like_tag = "/" not in spec.checkpoint and "." not in spec.checkpoint
    if tags and looks_like_tag and not Path(spec.checkpoint).exists():
        raise ModelError(
            f"{spec.checkpoint!r} is neither a file nor a tag of {spec.name}",
            remedy=f"tags are {tags}; or {get} and give its path",
        )
    path = find_checkpoint(spec.checkpoint, get)
    stated = _stated_beside(path)
    return Found(None, get, *stated, projection=path) if micro else Found(path, get, *stated)


def _stated_beside(path: Path) -> tuple[bool | None, dict[str, Any]]:
    """Return the activation and preprocessing that an open_clip_config.json beside a file states.

    Every open_clip repository on the hub has one; it travels with the weights when both are
    downloaded, and knows better than a name.
    """
    beside = path.parent / "open_clip_config.json"
    if not beside.is_file():
        return None, {}
    try:
        stated = json.loads(beside.read_text("utf-8"))
        quick = bool(stated["model_cfg"].get("quick_gelu", False))
    except (ValueError, KeyError, AttributeError):
        raise ModelError(
            "is not an open_clip configuration",
            path=beside,
            remedy="download it again, or remove it",
        ) from None
    given = stated.get("preprocess_cfg", {})
    return quick, {k: given[k] for k in ("mean", "std", "interpolation") if k in given}


def _from_hub(repo: str, get: str, filename: str | None = None) -> Path:
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        return Path(download_pretrained_from_hf(repo, filename=filename))
    except Exception as error:
        raise ModelError(
            f"cannot be had from the hub ({type(error).__name__})",
            path=f"hf-hub:{repo}",
            remedy=f"{get} by hand and give its path as `checkpoint`",
        ) from None


def fill_model(model: nn.Module, found: Found, spec: ModelSpec) -> str:
    """Load an open_clip checkpoint strictly.

    Args:
        model: changed in place.
        found: of `resolve_checkpoint`.
        spec: for the hash.

    Returns:
        The file's SHA-256.

    Raises:
        ModelError: damaged, of another model or of another hash.
    """
    digest = check_sha256(found.path, spec.sha256, found.get)
    state = read_state(found.path, found.get)
    with contextlib.suppress(KeyError, IndexError, RuntimeError, AttributeError):
        state = convert_state_dict(model, state)  # of other projects; load_into names misfits
    state.pop("text.transformer.embeddings.position_ids", None)
    scale = state.get("logit_scale")
    if scale is not None and scale.numel() == 1:
        state["logit_scale"] = scale.reshape(model.logit_scale.shape)
    load_into(model, state, found.path, found.get, may_lack=("attn_mask", "num_batches_tracked"))
    return digest


def micro_weights_path() -> Path:
    """Return where CLIP-micro's own weights (the text projection) lie."""
    return Path(str(files("pipeline.models") / "weights/clip-micro.safetensors"))


def fill_micro(model: nn.Module, found: Found, spec: ModelSpec) -> str:
    """Put together CLIP-micro: ImageNet trunk and MiniLM from packages, and its own projection.

    The text tower already holds MiniLM: open_clip loaded it from the package's folder. A file that
    holds the whole model is taken as `fill_model` takes it.

    Args:
        model: a CustomTextCLIP of the clip-micro configuration, changed in place.
        found: of `resolve_checkpoint`.
        spec: for the hash, which is that of the three files' hashes.

    Returns:
        A SHA-256 over the SHA-256 of the trunk, MiniLM and the projection.

    Raises:
        ModelError: a package or the projection is missing or not the expected one.
    """
    get = found.get
    trunk = model.visual.trunk
    trunk.load_state_dict(lite0_state(list(trunk.state_dict())))
    path = find_checkpoint(str(found.projection or micro_weights_path()), get)
    state = read_state(path, get)
    if set(state) != {PROJECTION, "logit_scale"}:
        if found.projection is not None:
            return fill_model(model, replace(found, path=path), spec)
        raise ModelError("does not hold CLIP-micro's text projection", path=path, remedy=get)
    with torch.no_grad():
        model.text.proj.weight.copy_(state[PROJECTION])
        model.logit_scale.copy_(state["logit_scale"])
    parts = f"{LITE0_SHA256} {MINILM_SHA256} {check_sha256(path, None, get)}"
    digest = hashlib.sha256(parts.encode()).hexdigest()
    if spec.sha256 is not None and spec.sha256 != digest:
        raise ModelError(
            f"the parts' SHA-256 is {digest}, but {spec.sha256} is asked for", path=path, remedy=get
        )
    return digest
