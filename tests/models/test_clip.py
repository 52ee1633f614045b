"""CLIP models embed images, patch tokens and texts in one space."""

from __future__ import annotations

import re

import open_clip
import pytest
import torch
import yaml
from open_clip.model import CLIP
from safetensors.torch import save_file

from pipeline.config import load_params
from pipeline.errors import ModelError
from pipeline.models import ModelSpec, load_clip
from pipeline.models.checkpoint import WEIGHTS
from tests.models.small import save_clip, small_clip_config

OPEN_CLIP = "CLIP gives the embeddings of open_clip; patch tokens pass its norm and projection."


@pytest.fixture(scope="module")
def micro():
    return load_clip(ModelSpec(name="clip-micro", checkpoint="package"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    path = save_clip(tmp_path_factory.mktemp("clip") / "small.safetensors")
    return load_clip(ModelSpec(name="ViT-B-32", checkpoint=str(path)), config=small_clip_config())


@pytest.mark.promise(OPEN_CLIP)
def test_the_mean_token_of_a_convolutional_tower_is_the_image(micro):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pooled, tokens = micro.encode_image(images, tokens=True)
    assert pooled.shape == (2, 1280) and tokens.shape == (2, 49, 1280)
    assert micro.token_grid == (7, 7)
    torch.testing.assert_close(tokens.mean(1), pooled, atol=1e-4, rtol=1e-3)


@pytest.mark.promise(OPEN_CLIP)
def test_a_vits_tokens_pass_its_norm_and_projection(vit):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    visual = vit.model.visual
    x = visual.transformer(visual._embeds(images))
    with torch.inference_mode():
        expected = visual.ln_post(x)[:, 1:] @ visual.proj
        pooled, tokens = vit.encode_image(images, tokens=True)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled, vit.encode_image(images), atol=1e-5, rtol=1e-4)
    assert tokens.shape[1] == vit.token_grid[0] * vit.token_grid[1] == 16
    assert visual.output_tokens is False


@pytest.mark.promise(OPEN_CLIP)
def test_embeddings_are_those_of_open_clip(vit, tmp_path):
    torch.manual_seed(0)
    reference = CLIP(**small_clip_config()).eval()
    images = torch.randn(2, 3, 64, 64)
    texts = ["a tumour", "no tumour"]
    with torch.inference_mode():
        torch.testing.assert_close(vit.encode_image(images), reference.encode_image(images))
        tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
        torch.testing.assert_close(vit.encode_text(texts), reference.encode_text(tokens))
    assert vit.logit_scale == pytest.approx(float(reference.logit_scale.detach().exp()))


@pytest.mark.promise("The fingerprint of a model is everything that decides its results.")
def test_the_activation_is_part_of_the_fingerprint_and_of_the_result(tmp_path):
    path = save_clip(tmp_path / "small.pt")
    spec = ModelSpec(name="ViT-B-32", checkpoint=str(path))
    plain = load_clip(spec, config=small_clip_config())
    quick = load_clip(spec, config=small_clip_config(quick_gelu=True))
    assert plain.fingerprint["config"]["quick_gelu"] is False
    assert quick.fingerprint["config"]["quick_gelu"] is True
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(plain.encode_image(images), quick.encode_image(images))


@pytest.mark.promise("A prompt that the tokenizer would truncate is refused.")
@pytest.mark.parametrize("which", ["micro", "vit"])
def test_a_prompt_that_would_be_truncated_is_refused(which, request):
    clip = request.getfixturevalue(which)
    clip.encode_text(["a brain MRI scan showing a glioma."])
    with pytest.raises(ModelError, match="tokens"):
        clip.encode_text(["short", "very " * clip.context_length + "long"])


@pytest.mark.promise("A checkpoint with another SHA-256 than params.yaml requires is refused.")
def test_clip_micro_by_its_path_is_the_shipped_one_and_a_whole_state_is_taken_too(tmp_path):
    shipped = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))
    path = WEIGHTS / "clip-micro.safetensors"
    by_path = load_clip(ModelSpec(name="clip-micro", checkpoint=str(path)))
    assert by_path.fingerprint == shipped.fingerprint
    state = {name: tensor.contiguous() for name, tensor in shipped.model.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    whole = load_clip(ModelSpec(name="clip-micro", checkpoint=str(tmp_path / "whole.safetensors")))
    text = ["a photo of a zebra"]
    assert torch.equal(whole.encode_text(text), shipped.encode_text(text))
    assert torch.equal(by_path.encode_text(text), shipped.encode_text(text))
    digest = shipped.fingerprint["checkpoint_sha256"]
    assert whole.fingerprint["checkpoint_sha256"] != digest
    with pytest.raises(ModelError, match=digest):
        load_clip(ModelSpec(name="clip-micro", sha256="0" * 64))


@pytest.mark.promise("An encoder is added without code: the guide's blocks run as they are.")
def test_the_guide_to_add_an_encoder_runs(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = (repo / "docs/guides/add_an_encoder.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 3
    scope: dict = {}
    for block in blocks:
        exec(block, scope)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ModelError, match="embed_dim"):
        load_clip(ModelSpec(name="broken.json"))
    params = yaml.safe_load((repo / "params.yaml").read_text("utf-8"))
    params["profile"] = "own"
    params["profiles"]["own"] = {
        "sam2": {"name": "sam2-micro", "checkpoint": "package"},
        "clip": {"name": "my-clip.json", "checkpoint": "my-clip.pt"},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    clip = load_clip(load_params(tmp_path / "params.yaml").models.clip)
    assert clip.fingerprint == scope["clip"].fingerprint
