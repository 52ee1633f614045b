"""CLIP's image encoder run by ONNX Runtime: the same features, under an identity of their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError

from pipeline.config import EncodeParams
from pipeline.encode import again
from pipeline.encode.encode import load_encoder
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ModelError
from pipeline.models import ClipModel, TimmEncoder
from pipeline.models.onnx_encoder import onnxruntime_for_clip
from tests.encode.test_pooled import VISION, mapper, small
from tests.project import Project


def encoder(kind: str) -> ClipModel | TimmEncoder:
    if kind in VISION:
        return small(kind)
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=0).eval()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 64}
    preprocess |= {"interpolation": "bicubic", "resize_mode": "squash"}
    return TimmEncoder(network, preprocess)


@pytest.mark.promise(
    "ONNX Runtime in the place of torch gives the same features, in another store."
)
@pytest.mark.parametrize("kind", [*VISION, "without CLIP"])
def test_features_and_maps_are_those_of_torch_for_any_batch(kind):
    clip = encoder(kind)
    other = copy.copy(clip)
    onnxruntime_for_clip(other)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, clip.image_size, clip.image_size, generator=generator)
    near = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(other.encode_image(images), clip.encode_image(images), **near)
    mine, theirs = other.encode_maps(images), clip.encode_maps(images)
    torch.testing.assert_close(mine, theirs, **near)
    assert torch.equal(mine[0], other.encode_image(images))
    alone, maps = other.encode_maps(images[1:2])
    assert torch.equal(alone, mine[0][1:2])
    assert all(torch.equal(a, b[1:2]) for a, b in zip(maps, mine[1], strict=True))
    assert mapper(other, "whole").identity != mapper(clip, "whole").identity


def test_the_stage_runs_it_and_its_learners_find_the_clip_again(tmp_path):
    project = Project(tmp_path)
    clips = [
        load_encoder(project.params(encode__runtime=runtime), RunOptions())
        for runtime in ("torch", "onnxruntime")
    ]
    images = torch.randn(
        2, 3, *[clips[0].image_size] * 2, generator=torch.Generator().manual_seed(2)
    )
    features = [clip.encode_image(images).double().numpy() for clip in clips]
    norms = [np.linalg.norm(each, axis=1) for each in features]
    assert np.all((features[0] * features[1]).sum(1) / (norms[0] * norms[1]) > 0.99999)
    assert not np.array_equal(*features)  # it is not torch that answers
    assert torch.equal(*(clip.encode_text(["a cat"]) for clip in clips))
    spec, made_by = project.params().models.clip, clips[1].fingerprint
    assert again.load_clip_again(spec, made_by).fingerprint == clips[0].fingerprint
    with pytest.raises(ModelError, match="is not the CLIP that made the features"):
        again.load_clip_again(spec, made_by | {"checkpoint_sha256": "0"})


def test_what_it_cannot_run_is_told_in_one_line(monkeypatch, capfd):
    clip = small("vit")
    clip.precision = "bf16"
    with pytest.raises(ConfigError, match=r"encode\.runtime: onnxruntime is for fp32") as error:
        onnxruntime_for_clip(clip)
    assert "encode.runtime: torch, or use --device cpu --precision fp32" in error.value.remedy
    clip.precision = "fp32"
    monkeypatch.setattr(clip, "encode_maps", lambda images: (torch.linalg.svdvals(images), []))
    with pytest.raises(ConfigError, match=r"encode\.runtime: onnxruntime is not for this model"):
        onnxruntime_for_clip(clip)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValidationError, match="patch tokens need torch"):
        EncodeParams(tokens=True, runtime="onnxruntime")
