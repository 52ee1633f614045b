"""The accuracy rows of CLIP-micro's card, on folders of drawn images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.io import sha256_file
from pipeline.models import ModelSpec, load_clip
from pipeline.models.clip_weights import PROJECTION, micro_weights_path
from pipeline.pretrain import clip_projection, judge_clip, report

PROMPTS = """
templates: {default: ["a photo of a {}."]}
classes:
  brain: {zebra: zebra, night: black screen}
  covid: {zebra: zebra, night: black screen}
  lung: {zebra: zebra, night: black screen}
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Stripes and darkness in every set; lung's training labels are exchanged."""
    root = tmp_path_factory.mktemp("judge")
    (root / "prompts.yaml").write_text(PROMPTS)
    rng = np.random.default_rng(0)
    for name in judge_clip.SETS:
        for part, count in {"train": 9, "test": 4}.items():
            for label in ("zebra", "night"):
                wrong = name == "lung" and part == "train"
                shown = {"zebra": "night", "night": "zebra"}[label] if wrong else label
                folder = root / name / part / label
                folder.mkdir(parents=True)
                for i in range(count):
                    image = rng.integers(0, 30, (80, 100, 3), np.uint8)
                    if shown == "zebra":
                        image[:, (np.arange(100) + i) % 12 < 6] += 200
                    Image.fromarray(image).save(folder / f"{i}.png")
    clip = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))
    return {row["set"]: row for row in judge_clip.judge(clip, root, root / "prompts.yaml")}


def test_every_set_has_its_count_and_chance(judged):
    assert list(judged) == list(judge_clip.SETS)
    assert {(row["n"], row["chance"]) for row in judged.values()} == {(8, 0.5)}


def test_the_probe_learns_train_labels_and_is_judged_on_test_labels(judged):
    assert judged["brain"]["probe"][0] == 1.0
    assert judged["lung"]["probe"][0] == 0.0


def test_zero_shot_reads_no_training_label(judged):
    assert judged["lung"]["zero"] == judged["brain"]["zero"]


def test_the_card_is_of_the_weights_that_it_names(tmp_path, monkeypatch):
    shipped = load_file(micro_weights_path())
    weights = tmp_path / "elsewhere.safetensors"
    save_file(shipped | {PROJECTION: -shipped[PROJECTION]}, weights)
    judged = []
    monkeypatch.setattr(clip_projection, "training_pairs", tuple)
    monkeypatch.setattr(clip_projection, "retrieval", lambda: {"top1": 0.5, "top5": 0.5})
    monkeypatch.setattr(judge_clip, "judge", lambda model, *_: judged.append(model) or [])
    report.report_clip(weights, tmp_path, tmp_path, tmp_path / "prompts.yaml")
    assert json.loads((tmp_path / "clip-micro.json").read_text())["sha256"] == sha256_file(weights)
    got = judged[0].model.state_dict()["text.proj.weight"]
    assert torch.equal(got, -shipped[PROJECTION].to(got.dtype))


def test_clip_micro_by_its_path_is_the_shipped_one_and_a_whole_state_is_taken_too(tmp_path):
    shipped = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))
    by_path = load_clip(ModelSpec(name="clip-micro", checkpoint=str(micro_weights_path())))
    assert by_path.fingerprint == shipped.fingerprint
    state = {name: tensor.contiguous() for name, tensor in shipped.model.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    whole = load_clip(ModelSpec(name="clip-micro", checkpoint=str(tmp_path / "whole.safetensors")))
    text = ["a photo of a zebra"]
    assert torch.equal(whole.encode_text(text), shipped.encode_text(text))
    assert torch.equal(by_path.encode_text(text), shipped.encode_text(text))
    assert whole.fingerprint["checkpoint_sha256"] != shipped.fingerprint["checkpoint_sha256"]
