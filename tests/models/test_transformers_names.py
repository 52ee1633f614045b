"""Checkpoints of transformers' classes give the same features as those classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from pipeline.errors import ModelError
from pipeline.models import ModelSpec, load_clip
from pipeline.models.clip import build_clip, clip_config
from pipeline.models.transformers_names import open_clip_names
from tests.models.small import SIGLIP, WORDS, save_text_model

SAME = "PubMedCLIP's and MedSigLIP's classes of transformers give our features; names are strict."
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@register_model
def small_siglip_tower(pretrained: bool = False, pretrained_cfg: Any = None,
                       pretrained_cfg_overlay: Any = None, cache_dir: Any = None,
                       **changed: Any) -> VisionTransformer:  # fmt: skip
    """MedSigLIP's image tower, small."""
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    kind = {"class_token": False, "act_layer": "gelu_tanh", "mlp_ratio": 2}
    return VisionTransformer(**shape | kind | changed)


def small_clip() -> tuple[CLIPModel, dict[str, Any]]:
    vision = {**LAYERS, "intermediate_size": 256, "image_size": 32, "patch_size": 8}
    text = {**LAYERS, "intermediate_size": 256, "max_position_embeddings": 77, "vocab_size": 49408}
    ends = {"bos_token_id": 49406, "eos_token_id": 49407}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text | ends, projection_dim=24))
    shape = {"layers": 2, "width": 64}
    return model, {
        "embed_dim": 24,
        "quick_gelu": True,
        "text_cfg": {**shape, "heads": 2, "vocab_size": 49408},
        "vision_cfg": {**shape, "image_size": 32, "patch_size": 8, "head_width": 32},
    }


def small_siglip() -> tuple[SiglipModel, dict[str, Any]]:
    layers = LAYERS | {"intermediate_size": 128}
    vision = {**layers, "image_size": 32, "patch_size": 8}
    text = {**layers, "vocab_size": len(WORDS), "projection_size": 64}
    text |= {"max_position_embeddings": 16}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    tower = {"timm_model_name": "small_siglip_tower", "image_size": 32}
    more = {"layers": 2, "mlp_ratio": 2, "norm_kwargs": {"eps": 1e-6}}
    config = SIGLIP | {
        "quick_gelu": False,
        "vision_cfg": SIGLIP["vision_cfg"] | tower,
        "text_cfg": SIGLIP["text_cfg"] | more | {"act_kwargs": {"approximate": "tanh"}},
    }
    return model, config


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("make", [small_clip, small_siglip])
def test_features_are_those_of_transformers(tmp_path, make):
    torch.manual_seed(0)
    theirs, config = make()
    theirs.eval()
    for parameter in theirs.parameters():  # biases and norms too, which begin at 0 and 1
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    path = tmp_path / "model.pt"
    state = theirs.state_dict()
    torch.save(state, path)
    siglip = make is small_siglip
    text = str(save_text_model(tmp_path / "text")) if siglip else None
    name = "medsiglip" if siglip else "ViT-B-32-quickgelu"
    spec = ModelSpec(name=name, checkpoint=str(path), text=text)
    ours = load_clip(spec, config=config)
    images, texts = torch.randn(2, 3, 32, 32), ["a scan of tumour", "scan"]

    def features(found: Any) -> torch.Tensor:
        return found if torch.is_tensor(found) else found.pooler_output

    with torch.inference_mode():
        expected = features(theirs.get_image_features(pixel_values=images))
        torch.testing.assert_close(ours.encode_image(images), expected, rtol=1e-4, atol=1e-4)
        hidden = theirs.vision_model(pixel_values=images).last_hidden_state
        if siglip:  # each token as the only one
            head = theirs.vision_model.head
            expected = torch.stack([head(hidden[:, i : i + 1]) for i in range(16)], 1)
        else:
            expected = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden[:, 1:]))
        tokens = ours.encode_image(images, tokens=True)[1]
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
        expected = features(theirs.get_text_features(input_ids=ours.tokenizer(texts)))
        torch.testing.assert_close(ours.encode_text(texts), expected, rtol=1e-4, atol=1e-4)
    lost = next(name for name in state if name.endswith("1.self_attn.k_proj.bias"))
    torch.save({n: t for n, t in state.items() if n != lost}, path)
    with pytest.raises(ModelError, match=r"1 missing.*2 unexpected .*q_proj"):
        load_clip(spec, config=config)


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "medsiglip"])
def test_every_tensor_of_the_published_size_has_its_place(name):
    with torch.device("meta"):
        if name == "medsiglip":
            wide = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
                    "num_hidden_layers": 27}  # fmt: skip
            vision = wide | {"image_size": 448, "patch_size": 14}
            text = wide | {"vocab_size": 32000}
            theirs = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
        else:
            theirs = CLIPModel(CLIPConfig())
        ours = build_clip(clip_config(name) | {"quick_gelu": name != "medsiglip"})
        found = {n: t.numel() for n, t in open_clip_names(dict(theirs.state_dict())).items()}
    own = {n: t.numel() for n, t in ours.state_dict().items() if not n.endswith("attn_mask")}
    assert found == own


@pytest.mark.promise("PubMedCLIP's own files, in the layout of OpenAI's CLIP, load exactly.")
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "RN50-quickgelu"])
def test_files_of_pubmedclips_authors(tmp_path, name):
    text = {"layers": 1, "width": 64, "heads": 2, "vocab_size": 49408}
    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    if name.startswith("RN"):
        vision = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 16}
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    theirs = CLIP(**config).eval()
    half = {n: t.half() if t.is_floating_point() else t for n, t in theirs.state_dict().items()}
    assert {"visual.conv1.weight", "ln_final.bias", "text_projection", "logit_scale"} < half.keys()
    path = tmp_path / "PubMedCLIP.pth"
    more = {"epoch": 50, "optimizer_state_dict": {"state": {}, "param_groups": []}, "loss": 0.5}
    torch.save({"state_dict": half} | more, path)
    ours = load_clip(ModelSpec(name=name, checkpoint=str(path)), config=config)
    theirs.load_state_dict(half)
    images, texts = torch.randn(2, 3, 64, 64), ["a scan of tumour", "scan"]
    with torch.inference_mode():
        torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images))
        expected = theirs.encode_text(ours.tokenizer(texts))
        torch.testing.assert_close(ours.encode_text(texts), expected)
