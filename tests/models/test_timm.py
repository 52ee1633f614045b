"""A timm network in place of CLIP: its own preprocessing, its weights checked, and no texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

from pipeline import open_features
from pipeline.config import Params, load_params
from pipeline.encode.encode import encode_dataset
from pipeline.encode.mapper import EncodeMapper
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ModelError, StoreError
from pipeline.evaluate import evaluate_dataset
from pipeline.io import sha256_file
from pipeline.learners.train import train_dataset
from pipeline.models import ModelSpec, load_timm
from pipeline.predict import predict_images
from pipeline.report.build import build_report
from pipeline.segment.segment import segment_dataset
from pipeline.store import verify_store
from tests.project import DATASET, REPO, Project

SWIN = "swin_tiny_patch4_window7_224"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ARGUMENTS = {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4]}
ARGUMENTS |= {"img_size": 64, "window_size": 4}


def save(folder: Path, name: str = SWIN, classes: int = 5, **arguments) -> torch.nn.Module:
    """Save a small model with random weights as a repository of timm has it; return the model."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, **arguments).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    seen = {"input_size": [3, 64, 64], "mean": MEAN, "std": STD, "interpolation": "bilinear"}
    config = {"architecture": name, "num_classes": classes, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": seen}))
    return model


def spec(folder: Path, name: str = SWIN, **more: str) -> ModelSpec:
    return ModelSpec(name=f"timm:{name}", checkpoint=str(folder / "model.safetensors"), **more)


@pytest.mark.promise("Encoders of timm see images as timm prepares them, and give its features.")
@pytest.mark.parametrize("classes", [5, 0], ids=["with a classifier", "without"])
@pytest.mark.parametrize(
    ("name", "arguments"), [(SWIN, ARGUMENTS), ("test_resnet", {}), ("test_vit", {"img_size": 64})]
)
def test_features_are_those_of_timm_itself(tmp_path, name, arguments, classes):
    model = save(tmp_path, name, classes, **arguments)
    encoder = load_timm(spec(tmp_path, name))
    assert (encoder.image_size, encoder.mean, encoder.std) == (64, MEAN, STD)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    params = load_params(REPO / "params.yaml").encode.model_copy(update={"views": ("whole",)})
    mapper = EncodeMapper(params, encoder, {})
    ours = mapper.encode([mapper.prepare(image, np.ones((64, 64), bool))]).features
    with torch.inference_mode():
        seen = torch.from_numpy(image / 255).permute(2, 0, 1).float()[None]
        seen = (seen - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        theirs = model.forward_head(model.forward_features(seen), pre_logits=True)
        _, maps = encoder.encode_maps(seen)
        last = model.forward_features(seen)
    assert ours.shape == (1, 1, model.num_features)
    last = last[:, 1:].mT.reshape(maps[-1].shape) if name == "test_vit" else last
    last = last.movedim(-1, 1) if name == SWIN else last
    if name != SWIN:  # its last norm comes after the maps
        torch.testing.assert_close(maps[-1], last)
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-5)
    features, tokens = encoder.encode_image(seen, tokens=True)
    assert encoder.token_grid == last.shape[2:] and encoder.tokens == tokens.shape[1]
    torch.testing.assert_close(tokens, last.flatten(2).mT)
    torch.testing.assert_close(features, theirs)


def test_without_a_configuration_the_preprocessing_is_what_timm_lists_for_the_tag(tmp_path):
    save(tmp_path, "test_vit", 1000)
    (tmp_path / "config.json").unlink()
    encoder = load_timm(spec(tmp_path, "test_vit.r160_in1k"))
    listed = resolve_model_data_config(timm.create_model("test_vit.r160_in1k"))
    assert (encoder.mean, encoder.std) == (listed["mean"], listed["std"])
    assert encoder.image_size == listed["input_size"][1] == 160
    assert str(listed["interpolation"]) == encoder.interpolation
    assert create_transform(**listed)  # it is a configuration of timm's own transform


@pytest.mark.promise("A checkpoint that cannot be right is refused, and code in it never runs.")
def test_wrong_weights_are_refused_with_their_path_and_a_remedy(tmp_path):
    def refused(match: str, name: str = SWIN, **more: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            load_timm(spec(tmp_path, name, **more))
        assert caught.value.remedy and len(str(caught.value).splitlines()) == 1

    state, path = save(tmp_path, **ARGUMENTS).state_dict(), tmp_path / "model.safetensors"
    refused("has SHA-256", sha256="0" * 64)
    assert load_timm(spec(tmp_path, sha256=sha256_file(path)))
    refused("no model of timm", "swin_tiny_patch4_window7_224.nope")
    refused("no model of timm", "hf-hub:somebody/something")
    refused("no model of timm", text="folder")
    refused("configuration of another model", "test_resnet")
    norm = {key: value for key, value in state.items() if key != "norm.weight"}
    for wrong, match in (
        (norm, r"1 missing \(norm.weight\)"),
        (state | {"more": torch.ones(2)}, r"1 unexpected \(more\)"),
        (norm | {"norm.weight": torch.ones(3)}, "of another shape"),
        (norm | {"norm.weight": torch.full((32,), torch.nan)}, "NaN or infinite"),
    ):
        save_file(wrong, path)
        refused(match)
    path.write_bytes(path.read_bytes()[:500])
    refused("damaged")
    path.unlink()
    refused("no such checkpoint")


@pytest.fixture
def project(tmp_path):
    """24 images of two classes that differ in the brightness of their lesion."""
    made, rng = Project(tmp_path), np.random.default_rng(0)
    for i in range(24):
        image = rng.integers(0, 60, (48, 56, 3), np.uint8)
        mask = np.zeros((48, 56), bool)
        mask[10 : 30 + i % 5, 12:40] = True
        image[mask] += np.uint8(60 if i % 2 else 180)
        given = {"label": "cat" if i % 2 else "dog", "split": "train" if i < 16 else "test"}
        made.add(f"{i}.png", image, mask, **given)
    return made


@pytest.mark.promise(
    "An encoder without texts runs through every stage, with learners that allow it."
)
def test_a_swin_in_place_of_clip_runs_through_all_stages(project, tmp_path, capsys):
    save(tmp_path / "checkpoints", **ARGUMENTS)
    paths, options = project.paths, RunOptions(workers=1)
    views = {"official": ["whole", "masked", "whole+masked"]}

    def params(name: str = f"timm:{SWIN}") -> Params:
        clip = {"name": name, "checkpoint": str(tmp_path / "checkpoints/model.safetensors")}
        learners = dict.fromkeys(("zero-shot", "medfocus", "k-nn", "nearest-prototype"))
        return project.params(
            **{"datasets": [DATASET], "profile": "swin", "segment__prompt": "salient"},
            profiles__swin={"sam2": {"name": "sam2-micro"}, "clip": clip},
            **{"encode__views": ["whole", "masked", "oracle"], "encode__tokens": True},
            learners={"linear-probe": {"c_steps": 2}} | learners,
            **{"train__views": views, "train__seeds": [0], "splits__fractions": [1.0]},
            evaluate__bootstrap=20,
        )

    paths.prompts.unlink()  # no texts, no prompts
    segment_dataset(DATASET, params(), paths, options)
    assert encode_dataset(DATASET, params(), paths, options).done == 24
    store = open_features(paths.features(DATASET))
    assert not store.has_text and verify_store(store.path).ok
    assert store.class_features(["cat", "dog"]).shape == (2, 0)
    assert store.to_pandas("masked").shape == (24, 2 + 32)
    assert store.read("20.png")["tokens"].shape == (3, 16, 32)
    with pytest.raises(StoreError, match=r"no text features.*no texts"):
        store.text_features  # noqa: B018
    records = train_dataset(DATASET, params(), paths)
    trained = [record.parameters["learner"] for record in records]
    assert trained == ["linear-probe", "k-nn", "nearest-prototype"]
    assert "no class texts, which zero-shot, medfocus cannot" in capsys.readouterr().err
    assert any("no class texts" in note for note in records[0].parameters["notes"])
    assert not paths.run(DATASET, "zero-shot").exists()
    with pytest.raises(ConfigError, match="no class texts, which medfocus cannot") as caught:
        train_dataset(DATASET, params(), paths, ["linear-probe", "medfocus"])
    assert len(str(caught.value).splitlines()) == 1
    found = evaluate_dataset(DATASET, params(), paths)[DATASET]["official"]["full"]
    assert set(found) == {"linear-probe", "k-nn", "nearest-prototype"}
    assert found["linear-probe"]["whole+masked"]["1"]["accuracy"] == 1
    page = build_report(params(), paths, [DATASET]).read_text(encoding="utf-8")
    assert f"timm:{SWIN}" in page and "no class texts" in page
    assert "--learner medfocus" not in page  # what was left out is not said to be lacking
    new = [paths.data(DATASET) / "20.png", paths.data(DATASET) / "21.png"]
    asked = {"learner": "linear-probe", "view": "whole+masked", "out": tmp_path / "out"}
    rows = predict_images(DATASET, new, params(), paths, options, **asked).images
    assert [max(r.probabilities, key=r.probabilities.get) for r in rows] == ["dog", "cat"]
    with pytest.raises(StoreError, match="other"):  # another encoder: nothing is mixed
        encode_dataset(DATASET, params("timm:" + SWIN + ".ms_in1k"), paths, options)
