"""Models as they are published: what decides how they are run, and from which files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sam2.sam2_image_predictor import SAM2ImagePredictor

from pipeline.config import EncodeParams, load_params
from pipeline.encode.mapper import EncodeMapper
from pipeline.errors import ModelError
from pipeline.models import ModelSpec, load_clip, load_sam2
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.clip import _find, clip_config, known_weights, trained_with
from pipeline.models.sam2 import instantiate_sam2, sam2_config
from tests.models.small import (
    BIOMED,
    SIGLIP,
    edgetam_config,
    save_clip,
    save_official,
    save_repository,
    save_text_model,
    small_clip_config,
    small_sam2_config,
)

ASKED = "Weights are run as they were trained (activation, mean, resize), or it is asked how."
TEXTS = ["a scan of tumour", "scan"]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and an empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def refusal(spec: ModelSpec, **given) -> ModelError:
    """The error of a CLIP that cannot be loaded: one line, with a remedy."""
    with pytest.raises(ModelError) as caught:
        load_clip(spec, **given)
    assert caught.value.remedy and len(str(caught.value).splitlines()) == 1
    return caught.value


def trained(name: str, **spec) -> dict:
    """How weights of this name are run if nothing is known but their name."""
    file = Checkpoint(Path("model.safetensors"), "download it")
    return trained_with(ModelSpec(name=name, **spec), clip_config(name), file, {})


# -- activation and preprocessing -----------------------------------------------------------------


@pytest.mark.promise(ASKED)
@pytest.mark.parametrize(
    ("name", "quick_gelu", "mean", "resize_mode"),
    [
        ("ViT-B-16-quickgelu", True, 0.48145466, "shortest"),
        ("RN50", True, 0.48145466, "shortest"),
        ("convnext_base_w", False, 0.48145466, "shortest"),
        ("ViT-B-16-SigLIP", False, 0.5, "squash"),
        ("ViT-L-14-CLIPA", False, 0.485, "squash"),
        ("clip-micro", False, 0.5, "shortest"),
    ],
)
def test_a_name_that_stands_for_one_kind_of_weights_decides(name, quick_gelu, mean, resize_mode):
    found = trained(name)
    assert found["quick_gelu"] is quick_gelu and found["resize_mode"] == resize_mode
    assert found["mean"][0] == mean


@pytest.mark.promise(ASKED)
@pytest.mark.parametrize(
    ("name", "tags"),
    {
        "ViT-B-32": {"openai": (True, 0.48145466), "laion2b_s34b_b79k": (False, 0.48145466)},
        "ViT-B-16": {"openai": (True, 0.48145466), "laion400m_e31": (False, 0.48145466)},
        "ViT-L-14": {"laion400m_e31": (False, 0.48145466), "laion2b_s32b_b82k": (False, 0.5)},
        "ViT-H-14": {"laion2b_s32b_b79k": (False, 0.48145466), "dfn5b": (True, 0.48145466)},
    }.items(),
)
def test_weights_of_several_kinds_are_asked_about_and_the_answer_decides(name, tags):
    with pytest.raises(ModelError) as caught:
        trained(name)
    assert "QuickGELU" in caught.value.message and "trained_as" in caught.value.remedy
    for tag, (quick_gelu, mean) in tags.items():
        found = trained(name, trained_as=tag)
        assert (found["quick_gelu"], found["mean"][0]) == (quick_gelu, mean)
    with pytest.raises(ModelError, match="openay"):
        trained(name, trained_as="openay")


@pytest.mark.promise(ASKED)
def test_the_file_itself_comes_before_its_name_and_contradicts_an_answer(tmp_path):
    openai = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    known = {openai: True, "46683a32" + "0" * 56: True, "55e67d44" + "0" * 56: False}
    assert {digest: known_weights(digest)["quick_gelu"] for digest in known} == known
    assert known_weights("0" * 64) == {}
    path = save_clip(tmp_path / "open_clip_model.safetensors")
    config = {k: v for k, v in small_clip_config().items() if k != "quick_gelu"}
    spec = ModelSpec(name="ViT-B-32", checkpoint=str(path))
    assert "ViT-B-32-quickgelu" in refusal(spec, config=config).remedy
    beside = {"model_cfg": {**config, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.3] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    clip = load_clip(spec, config=config)
    assert clip.fingerprint["config"]["quick_gelu"] is True and clip.mean == (0.3, 0.3, 0.3)
    other = spec.model_copy(update={"trained_as": "laion2b_s34b_b79k"})
    assert "remove trained_as" in refusal(other, config=config).remedy
    beside["model_cfg"]["vision_cfg"] = {"timm_model_name": "test_vit"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    assert "another model" in refusal(spec, config=config).message


@pytest.mark.promise(
    "A missing checkpoint's remedy names weights with the activation of the model."
)
@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai"),
        ("ViT-B-16", "timm/vit_base_patch16_clip_224.laion400m_e31"),
        ("ViT-L-14-336", "timm/vit_large_patch14_clip_336.openai"),  # with its configuration
        ("ViT-B-16-SigLIP", "timm/ViT-B-16-SigLIP"),
    ],
)
def test_the_remedy_names_the_right_repository_and_its_configuration(name, repository, tmp_path):
    with pytest.raises(ModelError) as caught:
        _find(ModelSpec(name=name, checkpoint=str(tmp_path / "absent.pt")), clip_config(name))
    assert f"https://huggingface.co/{repository} " in caught.value.remedy + " "
    assert "open_clip_config.json" in caught.value.remedy


# -- repositories and text towers without network --------------------------------------------------


@pytest.mark.promise("A model of transformers is loaded without network, from folders.")
@pytest.mark.parametrize("given", ["text", "in the folder"])
def test_a_text_tower_and_its_tokenizer_come_from_a_folder(tmp_path, given):
    text, folder = save_text_model(tmp_path / "text"), tmp_path / "biomed"
    reference = save_repository(folder, BIOMED, text, mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.2])
    spec = ModelSpec(name=f"local-dir:{folder}", text=str(text))
    if given == "in the folder":
        shutil.copytree(text, folder, dirs_exist_ok=True)
        spec = ModelSpec(name=f"local-dir:{folder}")
    clip = load_clip(spec)
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        tokens = HFTokenizer(str(text), context_length=24)(TEXTS)
        torch.testing.assert_close(clip.encode_text(TEXTS), reference.encode_text(tokens))
        pooled, patches = clip.encode_image(images, tokens=True)
        torch.testing.assert_close(pooled, reference.encode_image(images))
        visual = reference.visual
        expected = visual.head(visual.trunk.forward_features(images)[:, 1:])
        torch.testing.assert_close(patches, expected)
    assert clip.token_grid == (10, 10)
    assert clip.mean == (0.4, 0.5, 0.6) and clip.count_tokens("scan of") == 4
    # The content of the folder is part of the fingerprint, its place is not.
    moved = spec.model_copy(update={"text": str(shutil.copytree(text, tmp_path / "moved"))})
    assert load_clip(moved).fingerprint == clip.fingerprint
    (tmp_path / "moved/tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_clip(moved).fingerprint != clip.fingerprint


@pytest.mark.promise("A relative path of a model starts at the folder of params.yaml.")
def test_relative_paths_are_found_from_any_folder(tmp_path, repo):
    text = save_text_model(tmp_path / "checkpoints/text")
    save_repository(tmp_path / "checkpoints/biomed", BIOMED, text)
    save_clip(tmp_path / "checkpoints/small.pt")
    (tmp_path / "checkpoints/small.json").write_text(json.dumps(small_clip_config()))
    shutil.copy2(repo / "params.yaml", tmp_path)
    for clip in (
        {"name": "local-dir:checkpoints/biomed", "text": "checkpoints/text"},
        {"name": "checkpoints/small.json", "checkpoint": "checkpoints/small.pt"},
    ):
        params = load_params(tmp_path / "params.yaml", {"profiles.embedded.clip": clip})
        loaded = load_clip(params.models.clip)
        assert loaded.fingerprint["name"] == clip["name"]  # the folder is no part of an identity


@pytest.mark.promise("A missing text tower or tokenizer is one line that says what to download.")
def test_a_missing_text_tower_is_one_line(tmp_path):
    text = save_text_model(tmp_path / "text")
    for name, config in {"biomed": BIOMED, "siglip": SIGLIP}.items():
        save_repository(tmp_path / name, config, text)
        spec = ModelSpec(name=f"local-dir:{tmp_path / name}")
        error = refusal(spec)
        assert "https://huggingface.co/nobody/has-this" in error.remedy and "text:" in error.remedy
        away = spec.model_copy(update={"text": str(tmp_path / "away")})
        assert refusal(away).path == tmp_path / "away"
    (text / "vocab.txt").unlink()  # of which transformers makes a tokenizer of five words
    assert "5 tokens" in refusal(spec.model_copy(update={"text": str(text)})).message
    named = ModelSpec(name="ViT-B-32", checkpoint=str(save_clip(tmp_path / "x.pt")), text=str(text))
    assert "remove `text`" in refusal(named, config=small_clip_config()).remedy
    for name in ("hf-hub:somebody/clip", f"local-dir:{tmp_path}", "hf-hub:"):
        assert "local-dir:FOLDER" in refusal(ModelSpec(name=name)).remedy
    broken = {**BIOMED, "vision_cfg": {"timm_model_name": "no_such_network"}}
    save_repository_config = tmp_path / "biomed/open_clip_config.json"
    save_repository_config.write_text(json.dumps({"model_cfg": broken}))
    text = save_text_model(tmp_path / "again")
    spec = ModelSpec(name=f"local-dir:{tmp_path / 'biomed'}", text=str(text))
    assert "open_clip cannot build" in refusal(spec).message


@pytest.mark.promise(
    "Images are resized as the model's training images were: `encode.geometry: auto`."
)
def test_siglip_sees_what_open_clip_shows_it(tmp_path):
    text = save_text_model(tmp_path / "text")
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    reference = save_repository(tmp_path / "sig", SIGLIP, text, **half, resize_mode="squash")
    state = torch.load(tmp_path / "sig/open_clip_pytorch_model.bin")
    state |= {name: state[name].reshape(1) for name in ("logit_scale", "logit_bias")}
    torch.save(state, tmp_path / "sig/open_clip_pytorch_model.bin")
    clip = load_clip(ModelSpec(name=f"local-dir:{tmp_path / 'sig'}", text=str(text)))
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    cfg = PreprocessCfg(size=160, **half, resize_mode="squash")
    theirs = image_transform_v2(cfg, is_train=False)(Image.fromarray(image))
    mapper = EncodeMapper(EncodeParams(views=("whole",)), clip, {})
    assert mapper.identity["geometry"] == "squash"
    prepared = mapper.prepare(image, np.ones(image.shape[:2], bool))
    assert torch.equal(prepared.pixels[0], theirs)
    padded = EncodeMapper(EncodeParams(views=("whole",), geometry="pad"), clip, {})
    assert padded.identity["geometry"] == "pad"
    with torch.inference_mode():
        tokens = HFTokenizer(str(text), context_length=16, clean="canonicalize")(["A scan."])
        torch.testing.assert_close(clip.encode_text(["A scan."]), reference.encode_text(tokens))
        features = mapper.encode([prepared]).features
        expected = reference.encode_image(theirs[None]).numpy()
    np.testing.assert_allclose(features[0], expected, atol=1e-5)


# -- SAM2 at another size -------------------------------------------------------------------------


@pytest.mark.promise("SAM2 runs at the size its weights were trained for, MedSAM2 at 512 pixels.")
def test_medsam2_is_known_by_its_name_and_has_512_pixels(tmp_path):
    path = tmp_path / "MedSAM2_CTLesion.pt"
    save_official(small_sam2_config(), path)
    tiny, medsam2 = (sam2_config(name)["model"] for name in ("sam2.1_hiera_tiny", "medsam2"))
    assert medsam2 == tiny | {"image_size": 512}
    for model, checkpoint, said in (
        ("sam2.1_hiera_tiny", path, "name to medsam2"),
        ("sam2.1_hiera_tiny", tmp_path / "absent.pt", "tiny.pt"),
        ("medsam2", tmp_path / "absent.pt", "MedSAM2_latest.pt from https://huggingface"),
    ):
        with pytest.raises(ModelError) as caught:
            load_sam2(ModelSpec(name=model, checkpoint=str(checkpoint)))
        assert said in caught.value.remedy


@pytest.mark.promise(
    "EdgeTAM's checkpoint gives the masks of its own image path; names are strict."
)
def test_edgetam_is_sam2s_own_predictor_with_the_trunk_of_timm(tmp_path):
    torch.manual_seed(0)
    theirs = instantiate_sam2(edgetam_config() | {"image_size": 256}).eval()
    for name, parameter in theirs.image_encoder.trunk.named_parameters():
        if name.endswith("bn.weight"):  # timm begins with blocks that do nothing
            torch.nn.init.uniform_(parameter, 0.5, 1)
    video = {"spatial_perceiver.latents": torch.zeros(256, 64)}
    state, path = theirs.state_dict() | video, tmp_path / "edgetam.pt"
    block = "stages_1.downsample.pre_block.channel_mixer.conv1.c.weight"  # as in the published file
    assert f"image_encoder.trunk.body.{block}" in state
    torch.save({"model": state}, path)
    spec = ModelSpec(name="edgetam", checkpoint=str(path), image_size=256)
    answers, image = [], np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    theirs = SAM2ImagePredictor(theirs)
    theirs._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]
    for predictor in (load_sam2(spec), theirs):
        predictor.set_image(image)
        answers.append(predictor.predict(box=np.array([20.0, 10, 90, 70]), return_logits=True))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert np.ptp(answers[0][0]) > 0.1
    state.pop("no_mem_embed")
    torch.save({"model": state | {"teacher.weight": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match=r"1 missing \(no_mem_embed\); 1 unexpected \(teacher"):
        load_sam2(spec)
    with pytest.raises(ModelError, match=r"edgetam\.pt from .*huggingface\.co/facebook/EdgeTAM"):
        load_sam2(spec.model_copy(update={"checkpoint": str(tmp_path / "absent.pt")}))
