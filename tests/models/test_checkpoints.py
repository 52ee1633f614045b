"""A checkpoint that cannot be used is named, with what is wrong and what to do."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import ModelSpec, load_clip, load_sam2
from tests.models.small import save_clip, save_official, small_clip_config, small_sam2_config


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def load(path: Path, **spec):
    return load_sam2(
        ModelSpec(name="sam2.1_hiera_tiny", checkpoint=str(path), **spec),
        config=small_sam2_config(),
    )


@pytest.mark.parametrize("name", ["sam2.1_hiera_tiny", "sam2.1_hiera_large"])
def test_a_missing_official_checkpoint_says_what_to_download_and_where_to_put_it(name, tmp_path):
    path = tmp_path / f"{name}.pt"
    with pytest.raises(ModelError) as caught:
        load_sam2(ModelSpec(name=name, checkpoint=str(path)))
    url = f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{name}.pt"
    assert url in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("checkpoint", "repository"),
    [
        ("facebook/sam2.1-hiera-tiny", "facebook/sam2.1-hiera-tiny"),  # an id, no path
        ("checkpoints/absent.pt", "facebook/sam2.1-hiera-small"),
        ("./absent", "facebook/sam2.1-hiera-small"),
    ],
)
def test_a_missing_official_checkpoint_says_how_to_name_the_one_on_the_hub(checkpoint, repository):
    with pytest.raises(ModelError, match="no such checkpoint") as caught:
        load_sam2(ModelSpec(name="sam2.1_hiera_small", checkpoint=checkpoint))
    assert str(caught.value).endswith(f", or set `checkpoint: hf-hub:{repository}`")


def test_an_official_model_without_a_checkpoint_is_refused():
    with pytest.raises(ModelError, match="no checkpoint is given"):
        load_sam2(ModelSpec(name="sam2.1_hiera_small"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git-LFS pointer"),
        (b"\x00\x01\x02" * 400, "checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content, words, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_cut_file_is_named(tmp_path, share):
    path = tmp_path / "model.pt"
    save_official(small_sam2_config(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"cut off|not a readable"):
        load(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path, legacy):
    path, target = tmp_path / "model.pt", tmp_path / "ran"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Bomb(target)}))
    else:
        torch.save({"model": Bomb(target)}, path)
    with pytest.raises(ModelError):
        load(path)
    assert not target.exists()


def test_a_foreign_checkpoint_names_what_is_missing_and_unexpected(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": {"nobody.knows": torch.zeros(3)}}, path)
    with pytest.raises(ModelError, match=r"missing .*unexpected \(nobody.knows\)"):
        load(path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    path, config = tmp_path / "model.pt", small_sam2_config()
    save_official(config, path)
    state = torch.load(path, weights_only=True)
    state["model"]["no_mem_embed"] = torch.zeros(1, 1, 7)
    torch.save(state, path)
    with pytest.raises(ModelError, match="another shape"):
        load(path)


def test_a_wrong_hash_gives_both(tmp_path):
    path = tmp_path / "model.pt"
    save_official(small_sam2_config(), path)
    with pytest.raises(ModelError) as caught:
        load(path, sha256="0" * 64)
    assert "0" * 64 in str(caught.value)
    assert load_digest(path) in str(caught.value)


def load_digest(path: Path) -> str:
    return load(path).fingerprint["checkpoint_sha256"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="sam2-micro"):
        load_sam2(ModelSpec(name="sam3"))
    with pytest.raises(ModelError, match="ViT-B-16"):
        load_clip(ModelSpec(name="ViT-Z-99"))


def test_a_clip_without_a_checkpoint_says_what_to_download(tmp_path):
    with pytest.raises(ModelError, match="no checkpoint is given"):
        load_clip(ModelSpec(name="ViT-B-16"))
    with pytest.raises(ModelError, match=r"https://huggingface\.co/timm/vit_base_patch16"):
        load_clip(ModelSpec(name="ViT-B-16", checkpoint=str(tmp_path / "absent.safetensors")))


def test_a_word_that_is_neither_a_file_nor_a_tag_lists_tags():
    with pytest.raises(ModelError, match="tags are openai"):
        load_clip(ModelSpec(name="ViT-B-16", checkpoint="opanai"))


def test_openais_weights_under_gelu_are_refused(tmp_path):
    path = save_clip(tmp_path / "ViT-B-32-openai.pt")
    with pytest.raises(ModelError, match="ViT-B-32-quickgelu"):
        load_clip(ModelSpec(name="ViT-B-32", checkpoint=str(path)), config=small_clip_config())


def test_a_torchscript_archive_is_refused_by_name(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(ModelError, match="TorchScript"):
        load(path)


def test_a_foreign_clip_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": {"nobody.knows": torch.zeros(3)}}, path)
    with pytest.raises(ModelError, match="another model"):
        load_clip(ModelSpec(name="ViT-B-32", checkpoint=str(path)), config=small_clip_config())
