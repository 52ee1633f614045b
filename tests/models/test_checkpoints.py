"""An unusable checkpoint is refused with the reason and the remedy; code in it never runs."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import constants

from pipeline.errors import ModelError
from pipeline.io import sha256_file
from pipeline.models import ModelSpec, load_clip, load_sam2
from tests.models.small import save_clip, save_official, small_clip_config, small_sam2_config


class Kind(NamedTuple):
    """A model: its loader, configuration, name, hub repository, file name, and how it is saved."""

    load: Callable
    config: Callable
    name: str
    repository: str
    file: str
    save: Callable[[Path], object]

    def open(self, checkpoint: str | Path, **spec: str):
        spec = ModelSpec(name=self.name, checkpoint=str(checkpoint), **spec)
        return self.load(spec, config=self.config())

    def refusal(self, checkpoint: str | Path, **spec: str) -> ModelError:
        """The error of a refused checkpoint: one line, with a remedy."""
        with pytest.raises(ModelError) as caught:
            self.open(checkpoint, **spec)
        assert caught.value.remedy and len(str(caught.value).splitlines()) == 1
        return caught.value


SAM2 = Kind(
    load_sam2,
    small_sam2_config,
    "sam2.1_hiera_tiny",
    "somebody/sam2.1-tuned",
    "sam2.1_hiera_tiny.pt",
    lambda path: save_official(small_sam2_config(), path),
)
CLIP = Kind(
    load_clip,
    small_clip_config,
    "ViT-B-32",
    "somebody/CLIP-tuned",
    "open_clip_model.safetensors",
    save_clip,
)
both = pytest.mark.parametrize("kind", [SAM2, CLIP], ids=["sam2", "clip"])


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@both
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html><body>404</body></html>", b"version https://git-lfs"]
)
@pytest.mark.promise("A file that is not a checkpoint is refused by name, with the remedy.")
@pytest.mark.promise("A truncated checkpoint is refused.")
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, kind, content):
    kind.save(tmp_path / kind.file)
    data = (tmp_path / kind.file).read_bytes()
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"model{suffix}"
        for written in (content, data[: int(len(data) * 0.9)]):
            path.write_bytes(written)
            assert kind.refusal(path).path == path


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
@pytest.mark.promise("Loading a checkpoint never runs code that it contains.")
def test_code_in_a_pickle_never_runs(tmp_path, kind):
    path, target = tmp_path / "model.pt", tmp_path / "ran"
    if kind == "legacy":
        path.write_bytes(pickle.dumps({"model": Bomb(target)}))
    elif kind == "zip":
        torch.save({"model": Bomb(target)}, path)
    else:
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    SAM2.refusal(path)
    assert not target.exists()


@both
@pytest.mark.promise("A checkpoint of another model is refused: names and shapes are strict.")
def test_a_foreign_checkpoint_names_what_is_missing_unexpected_or_misshapen(tmp_path, kind):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {"nobody.knows": torch.zeros(3)}}, path)
    message = kind.refusal(path).message
    assert "missing" in message and "1 unexpected (nobody.knows)" in message
    kind.save(path)
    ((key, state),) = torch.load(path, weights_only=True).items()
    name = next(name for name, tensor in state.items() if tensor.ndim == 3 or tensor.ndim == 1)
    torch.save({key: state | {name: torch.zeros(7, 7)}}, path)
    assert f"of another shape ({name})" in kind.refusal(path).message


@both
@pytest.mark.promise("A checkpoint with another SHA-256 than params.yaml requires is refused.")
def test_a_wrong_hash_is_refused_with_both(tmp_path, kind):
    path = tmp_path / kind.file
    kind.save(path)
    digest = sha256_file(path)
    message = kind.refusal(path, sha256="0" * 64).message
    assert "0" * 64 in message and digest in message
    assert kind.open(path, sha256=digest).fingerprint["checkpoint_sha256"] == digest


@both
@pytest.mark.promise("Weights that are NaN or infinite are refused.")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, kind, value):
    path = tmp_path / "model.pt"
    kind.save(path)
    ((key, state),) = torch.load(path, weights_only=True).items()
    name = next(name for name, tensor in state.items() if tensor.ndim > 1)
    state[name].view(-1)[-1] = value
    torch.save({key: state | {"text.attn_mask": torch.full((2, 2), -torch.inf)}}, path)
    assert f"1 tensors ({name})" in kind.refusal(path).message


def test_unknown_names_and_missing_checkpoints_say_what_to_choose_or_download(tmp_path):
    def error(load, name, checkpoint=None):
        with pytest.raises(ModelError) as caught:
            load(ModelSpec(name=name, checkpoint=checkpoint))
        return str(caught.value)

    assert "sam2-micro" in error(load_sam2, "sam3")
    assert "ViT-B-16" in error(load_clip, "ViT-Z-99")
    for name in ("sam2.1_hiera_tiny", "sam2.1_hiera_large"):
        url = f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{name}.pt"
        for checkpoint in (None, str(tmp_path / "absent.pt")):
            assert url in error(load_sam2, name, checkpoint)
    url = "https://huggingface.co/timm/vit_base_patch16"
    for checkpoint in (None, str(tmp_path / "absent.safetensors")):
        assert url in error(load_clip, "ViT-B-16", checkpoint)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline (as with HF_HUB_OFFLINE and HF_HUB_CACHE, read at import)."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(hub: Path, kind: Kind, repository: str = "") -> Path:
    """Put a model's file where a download would."""
    stored = hub / f"models--{(repository or kind.repository).replace('/', '--')}"
    revision = "0" * 40
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text(revision)
    path = stored / "snapshots" / revision / kind.file
    path.parent.mkdir(parents=True)
    kind.save(path)
    return path


@both
@pytest.mark.promise("A model of the hub is identified by the SHA-256 of its file.")
def test_a_hub_id_loads_the_file_of_the_repository(kind, hub, tmp_path):
    digest = sha256_file(download(hub, kind))
    model = kind.open(f"hf-hub:{kind.repository}", sha256=digest)
    assert model.fingerprint["checkpoint_sha256"] == digest
    kind.save(tmp_path / kind.file)
    assert kind.open(tmp_path / kind.file).fingerprint == model.fingerprint
    best = download(hub, kind, "somebody/several-files")
    best.rename(best.with_stem("best"))
    named = kind.open(f"hf-hub:somebody/several-files/best{best.suffix}")
    assert named.fingerprint == model.fingerprint
    error = kind.refusal(f"hf-hub:{kind.repository}", sha256="0" * 64)
    assert digest in error.message and f"huggingface.co/{kind.repository}" in error.remedy


@both
@pytest.mark.promise("Without network, a missing model says what to download and where to put it.")
def test_offline_the_error_says_what_to_download(kind, hub):
    error = kind.refusal(f"hf-hub:{kind.repository}")
    assert error.path == f"hf-hub:{kind.repository}"
    assert f"download {kind.file} from https://huggingface.co/{kind.repository}" in error.remedy
    assert kind.refusal(kind.repository).remedy.endswith("hf-hub:organisation/name")


@pytest.mark.promise("OpenAI's CLIP weights are never run with the wrong activation.")
@pytest.mark.parametrize("where", ["path", "hub"])
def test_a_configuration_beside_the_checkpoint_decides_the_activation(where, hub, tmp_path):
    model = small_clip_config(quick_gelu=True)
    stated = {"model_cfg": model, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    if where == "hub":
        path, checkpoint = download(hub, CLIP), f"hf-hub:{CLIP.repository}"
    else:
        path = checkpoint = save_clip(tmp_path / CLIP.file)
    (path.parent / "open_clip_config.json").write_text(json.dumps(stated))
    name = checkpoint if where == "hub" else f"local-dir:{path.parent}"
    for clip in (CLIP.open(checkpoint), load_clip(ModelSpec(name=name))):
        assert clip.fingerprint["config"]["quick_gelu"] is True
        assert clip.mean == (0.1, 0.2, 0.3)


@pytest.mark.promise("OpenAI's CLIP weights are never run with the wrong activation.")
def test_a_tag_decides_the_activation(hub, tmp_path):
    download(hub, CLIP, "timm/vit_base_patch32_clip_224.openai")
    tagged = CLIP.open("openai").fingerprint
    plain = CLIP.open(save_clip(tmp_path / "small.safetensors")).fingerprint
    assert tagged["config"]["quick_gelu"] is True and plain["config"]["quick_gelu"] is False
    assert tagged["checkpoint_sha256"] == plain["checkpoint_sha256"]
