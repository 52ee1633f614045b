"""MedCLIP's and CXR-CLIP's checkpoints give the features of their own forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import register_model
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import Bottleneck, ResNet, resnet50
from transformers import AutoTokenizer, BertConfig, BertModel, SwinConfig, SwinModel

from pipeline.config import EncodeParams
from pipeline.encode.mapper import EncodeMapper
from pipeline.errors import ModelError
from pipeline.models import ModelSpec, load_clip
from pipeline.models.clip import build_clip, clip_config
from pipeline.models.medclip import FirstCellSwin, medclip_names
from tests.models.small import WORDS, save_text_model

SAME = "MedCLIP's and CXR-CLIP's checkpoints give the features of their own code; names are strict."
NAMES = ("medclip-vit", "medclip-resnet50", "cxr-clip-swin-tiny", "cxr-clip-resnet50")
SWIN = {"patch_size": 4, "embed_dim": 8, "window_size": 4}
SWIN |= {"depths": (2, 1, 1), "num_heads": (1, 2, 4)}
BERT = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 300}  # fmt: skip


@register_model
def small_swin(**of_timm: Any) -> SwinTransformer:
    model = SwinTransformer(img_size=64, **SWIN)
    model.default_cfg = {}
    return model


@register_model
def small_first_cell(**of_timm: Any) -> FirstCellSwin:
    return FirstCellSwin(img_size=64, **SWIN)


@register_model
def small_resnet(**of_timm: Any) -> TimmResNet:
    model = TimmResNet(TimmBottleneck, (1, 1, 1, 1))
    model.default_cfg = {"pool_size": (1, 1)}
    return model


SMALL = ("small_swin", "small_resnet", "small_first_cell", "small_resnet")
SMALL = dict(zip(NAMES, SMALL, strict=True))


class Tower(nn.Module):
    """A module that holds another under a name, as the authors' classes do."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def theirs(name: str, full: bool = False) -> nn.Module:
    """The model as its authors build it, from the same libraries; `full` of the published size."""
    swin = SwinConfig() if full else SwinConfig(image_size=64, **SWIN)
    bert = BertModel(BertConfig(vocab_size=28996) if full else BertConfig(**BERT))
    width, wide = bert.config.hidden_size, 512 if full else 24
    resnet = resnet50() if full else ResNet(Bottleneck, [1, 1, 1, 1])
    bias = name.startswith("cxr")
    image = resnet if name.endswith("resnet50") else SwinModel(swin)
    channels = 2048 if image is resnet else image.num_features
    projection = nn.Linear(channels, wide, bias=bias)
    text = nn.Linear(width, wide, bias=bias)
    if not bias:
        if image is resnet:
            resnet.fc, vision = projection, Tower(model=resnet)
        else:
            vision = Tower(model=image, projection_head=projection)
        model = Tower(vision_model=vision, text_model=Tower(model=bert, projection_head=text))
    else:
        if image is resnet:
            del resnet.fc
        inner = Tower(**{"resnet" if image is resnet else "image_encoder": image})
        model = Tower(
            image_encoder=inner, text_encoder=Tower(text_encoder=bert),
            image_projection=Tower(projection=projection), text_projection=Tower(projection=text),
        )  # fmt: skip
    model.logit_scale = nn.Parameter(torch.tensor(3.0 if bias else 5.0))
    return model.eval()


def published(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Its state under the names that transformers had when it was published, which are still those
    of its files; with the constants that it stored."""
    state = dict(model.state_dict())
    for name, part in model.named_modules():
        if isinstance(part, SwinModel):
            part.save_pretrained(folder)
            own = {n for n in state if n.startswith(name + ".")}
            state = {n: t for n, t in state.items() if n not in own}
            for n, tensor in load_file(folder / "model.safetensors").items():
                state[f"{name}.{n}"] = tensor
                if n.endswith("relative_position_bias_table"):
                    index = n.replace("bias_table", "index")
                    state[f"{name}.{index}"] = torch.zeros(16, 16, dtype=torch.long)
        if isinstance(part, BertModel):
            state[f"{name}.embeddings.position_ids"] = torch.arange(300)[None]
    return state


def image_features(model: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """The authors' forward pass of images."""
    if name == "medclip-vit":
        vision = model.vision_model
        return vision.projection_head(vision.model(images)["pooler_output"])
    if name == "medclip-resnet50":
        return model.vision_model.model(images)
    if name == "cxr-clip-swin-tiny":
        cells = model.image_encoder.image_encoder(pixel_values=images)["last_hidden_state"]
        return model.image_projection.projection(cells[:, 0])
    x = images
    for part in model.image_encoder.resnet.children():
        x = part(x)
    return model.image_projection.projection(torch.flatten(x, 1))


def text_features(model: nn.Module, name: str, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """The authors' forward pass of one text without padding."""
    if name.startswith("cxr"):
        states = model.text_encoder.text_encoder(**tokens)["last_hidden_state"]
        last = tokens["attention_mask"].sum(dim=-1) - 1
        return model.text_projection.projection(states[torch.arange(len(last)), last])
    bert, layers = model.text_model.model, []
    x = bert.embeddings(input_ids=tokens["input_ids"])
    for layer in bert.encoder.layer:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
        layers.append(x)
    mean = torch.stack([layers[0], layers[1], layers[-1]], dim=1).mean(2).mean(1)
    return model.text_model.projection_head(mean)


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_authors(tmp_path, name):
    torch.manual_seed(0)
    model = theirs(name)
    for part, parameter in model.named_parameters():
        if parameter.ndim and "bn" not in part and "downsample.1" not in part:
            nn.init.normal_(parameter, 0.0, 0.1)
    text, path = save_text_model(tmp_path / "text"), tmp_path / "model-best.tar"
    (tmp_path / "text/config.json").write_text(BertConfig(**BERT).to_json_string())
    state = published(model, tmp_path)
    torch.save({"model": state, "epoch": 15, "config": {"a": 1}} if "cxr" in name else state, path)
    config = clip_config(name) | {"embed_dim": 24}
    config["vision_cfg"] |= {"image_size": 64, "timm_model_name": SMALL[name]}
    spec = ModelSpec(name=name, checkpoint=str(path), text=str(text))
    ours = load_clip(spec, config=config)
    images, tokenizer = torch.randn(2, 3, 64, 64), AutoTokenizer.from_pretrained(text)
    with torch.inference_mode():
        features, tokens = ours.encode_image(images, tokens=True)
        expected = image_features(model, name, images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours.encode_image(images), features)
        one = tokens[:, 0] if name == "cxr-clip-swin-tiny" else tokens.mean(dim=1)
        torch.testing.assert_close(one, features, rtol=1e-4, atol=1e-4)
        channels = ours.encode_maps(images)[1][-1].shape[1]
        assert channels == ours.model.visual.trunk.num_features
        texts = ["scan of tumour", "a scan"]
        for got, words in zip(ours.encode_text(texts), texts, strict=True):
            expected = text_features(model, name, dict(tokenizer([words], return_tensors="pt")))
            torch.testing.assert_close(got[None], expected, rtol=1e-4, atol=1e-4)
    cxr = name.startswith("cxr")
    assert ours.logit_scale == pytest.approx(20.0855 if cxr else 100, rel=1e-4)
    if cxr:  # which sees cropped images
        image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
        mapper = EncodeMapper(EncodeParams(views=("whole",), geometry="crop"), ours, {})
        seen = mapper.prepare(image, np.ones(image.shape[:2], bool)).pixels[0]
        values = [0.5] * 3, [0.5] * 3
        if name.endswith("resnet50"):
            values = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        square = [transforms.Resize(64), transforms.CenterCrop(64)]
        whole = [*square, transforms.ToTensor(), transforms.Normalize(*values)]
        torch.testing.assert_close(seen, transforms.Compose(whole)(Image.fromarray(image)))
    if name.endswith("resnet50"):
        return
    kept = {n: t for n, t in state.items() if not n.endswith("1.attention.self.key.bias")}
    unknown = "image_encoder.new" if cxr else "vision_model.model.new"
    for wrong, match in (
        ({n: t for n, t in state.items() if "proj" not in n}, r"missing \(.*proj"),
        (kept, r"missing \(.*qkv"),
        (state | {unknown: torch.ones(1)}, "1 unexpected"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ModelError, match=match):
            load_clip(spec, config=config)


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_published_size_has_its_place(name, tmp_path):
    text = tmp_path / "config.json"
    text.write_text(BertConfig(vocab_size=28996).to_json_string())
    with torch.device("meta"):
        model = theirs(name, full=True)
        ours = build_clip(clip_config(name), str(tmp_path))
    renamed = {"attention.q_proj": "attention.self.query", "attention.k_proj": "attention.self.key",
               "attention.v_proj": "attention.self.value", "relative_position_bias.": "self.",
               "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
               "mlp.fc2": "output.dense"}  # fmt: skip
    state = {}
    for key, tensor in model.state_dict().items():
        for new, old in renamed.items():
            key = key.replace(new, old)
        state[key] = tensor
    found = {n: t.shape for n, t in medclip_names(state).items()}
    assert found == {n: t.shape for n, t in ours.state_dict().items()}
