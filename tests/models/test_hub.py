"""A model by the id of its repository on the hub: the hub's cache is real, the network is off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants

from pipeline.errors import ModelError, printable
from pipeline.io import sha256_file
from pipeline.models import ModelSpec, load_clip, load_sam2
from tests.models.small import save_clip, save_official, small_clip_config, small_sam2_config


class Kind(NamedTuple):
    """A model on the hub: its loader, configuration, name, repository, file, and how it is made."""

    load: Callable
    config: Callable
    name: str
    repository: str
    file: str
    save: Callable[[Path], object]


KINDS = {
    "sam2": Kind(
        load_sam2,
        small_sam2_config,
        "sam2.1_hiera_tiny",
        "somebody/sam2.1-tuned",
        "sam2.1_hiera_tiny.pt",
        lambda path: save_official(small_sam2_config(), path),
    ),
    "clip": Kind(
        load_clip,
        small_clip_config,
        "ViT-B-32",
        "somebody/CLIP-tuned",
        "open_clip_model.safetensors",
        save_clip,
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, empty; what it lacks would have to come over the network, which is off.

    As with HF_HUB_OFFLINE=1 and HF_HUB_CACHE, which the library reads when it is imported.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(cache: Path, kind: Kind) -> Path:
    """Lay the model's file where a download would have."""
    stored = cache / f"models--{kind.repository.replace('/', '--')}"
    revision = "0" * 40
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text(revision)
    path = stored / "snapshots" / revision / kind.file
    path.parent.mkdir(parents=True)
    kind.save(path)
    return path


def load(kind: Kind, repository: str | None = None, **spec: str):
    checkpoint = f"hf-hub:{kind.repository if repository is None else repository}"
    return kind.load(ModelSpec(name=kind.name, checkpoint=checkpoint, **spec), config=kind.config())


def refusal(kind: Kind, *args: str, **spec: str) -> str:
    """What is said when the model is refused: in one line, with a remedy."""
    with pytest.raises(ModelError) as caught:
        load(kind, *args, **spec)
    assert caught.value.remedy and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_hub_id_loads_the_repositorys_file_which_is_part_of_the_identity(kind, cache, tmp_path):
    digest = sha256_file(download(cache, kind))
    model = load(kind, sha256=digest)
    assert model.fingerprint["checkpoint_sha256"] == digest
    path = tmp_path / kind.file
    kind.save(path)
    local = kind.load(ModelSpec(name=kind.name, checkpoint=str(path)), config=kind.config())
    assert local.fingerprint == model.fingerprint


def test_another_hash_than_the_downloaded_files_is_refused_with_both(kind, cache):
    digest = sha256_file(download(cache, kind))
    said = refusal(kind, sha256="0" * 64)
    assert f"has SHA-256 {digest}, but {'0' * 64} is asked for" in said
    assert f"https://huggingface.co/{kind.repository}" in said


def test_offline_the_error_says_what_to_download_from_where_and_where_to_name_it(kind):
    said = refusal(kind)
    assert said.startswith(f"hf-hub:{kind.repository}: cannot be had from the hub")
    assert f"download {kind.file} from https://huggingface.co/{kind.repository} by hand" in said
    assert said.endswith("give its path as `checkpoint`")


def test_an_id_without_its_prefix_is_no_file_and_the_error_says_how_to_write_it(kind):
    with pytest.raises(ModelError, match="no such checkpoint") as caught:
        kind.load(ModelSpec(name=kind.name, checkpoint=kind.repository), config=kind.config())
    assert str(caught.value).endswith(f", or set `checkpoint: hf-hub:{kind.repository}`")


@pytest.mark.parametrize("repository", ["", "a/b/c", "no spaces/here", "../up", "a--b/c", "a\nb"])
def test_an_id_that_the_hub_cannot_have_is_refused_by_name(kind, repository):
    said = refusal(kind, repository)
    assert said.startswith(printable(f"hf-hub:{repository}: "))
    assert "hf-hub:organisation/name" in said


def test_the_configuration_in_clips_repository_decides_the_activation(cache):
    stated = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    path = download(cache, KINDS["clip"])
    (path.parent / "open_clip_config.json").write_text(json.dumps(stated))
    clip = load(KINDS["clip"])
    assert clip.fingerprint["config"]["quick_gelu"] is True
    assert clip.mean == (0.1, 0.2, 0.3)
