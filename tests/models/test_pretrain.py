"""tools.pretrain: reproducible training, on images it may see, measured on images held out."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.config import SegmentParams, load_params
from pipeline.models import ModelSpec, load_clip, load_sam2
from pipeline.models.clip import PROJECTION, micro_weights_path
from pipeline.models.seen import DIGITS, read_hashes
from pipeline.segment.strategies import STRATEGIES
from tools.pretrain import clip_projection, data, evaluate, judge_clip, loop, phantoms, report, run

REPO = Path(__file__).resolve().parents[2]
CARDS, WEIGHTS = REPO / "pipeline/models/cards", REPO / "pipeline/models/weights"
SHORT = loop.TrainConfig(steps=2, batch=4, warmup=1)
NOT_SEEN = (
    "The embedded models saw no image of the four study sets, except some lung training images "
    "(for their lung fields), which the model card states."
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def drawn():
    return data.load_phantoms(0, {kind: 2 for kind in phantoms.KINDS})


def train(items):
    return loop.train(run.new_micro(0), items, SHORT, autocast=False).state_dict()


@pytest.mark.parametrize("kind", list(phantoms.KINDS))
def test_phantoms_depend_on_the_seed_alone(kind):
    (a, mask), (b, same), (c, _) = (phantoms.draw(kind, 1, s)[0] for s in (3, 3, 4))
    assert (a.shape, a.dtype) == ((256, 256, 3), np.uint8)
    assert 64 <= mask.sum() < mask.size
    assert np.array_equal(a, b)
    assert np.array_equal(mask, same)
    assert not np.array_equal(a, c)


def test_training_is_reproducible_and_never_draws_held_out_images(drawn):
    held_out = [replace(i, image=torch.full_like(i.image, 255), held_out=True) for i in drawn]
    first, second = train(drawn), train([*drawn, *held_out])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_writes_weights_that_load_and_leaves_the_frozen_part(drawn, tmp_path):
    before = {k: v.clone() for k, v in run.new_micro(0).state_dict().items()}
    path = tmp_path / "sam2-micro.safetensors"
    after = run.make_sam2(drawn, SHORT, path, every=1).state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any(k.startswith("sam_mask_decoder") for k in changed)
    assert not any(k.startswith("image_encoder.trunk.body.conv_stem") for k in changed)
    assert not any("running_" in k for k in changed)
    load_sam2(ModelSpec(name="sam2-micro", checkpoint=str(path)))


def test_measuring_gives_the_dice_of_every_prompt_and_of_the_ellipse(drawn):
    sam2 = load_sam2(ModelSpec(name="sam2-micro"))
    cases = [evaluate.Case("p", i.image.permute(1, 2, 0).numpy(), i.mask.numpy()) for i in drawn]
    measured = evaluate.measure(sam2, cases[:3], ("salient", "box + mask + zoom"))["p"]
    assert list(measured) == [evaluate.ELLIPSE, "salient", "box + mask + zoom"]
    assert all(((v >= 0) & (v <= 1)).all() and v.shape == (3,) for v in measured.values())
    assert measured["box + mask + zoom"].mean() > 0.5


def test_near_copies_and_mirror_images_share_a_group():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(0, 255, (3, 40, 40), dtype=np.uint8)) for _ in range(2))
    groups = data.near_copy_groups([a, b, a.flip(-1), (a.float() * 0.9).byte()])
    assert groups[0] == groups[2] == groups[3] != groups[1]


@pytest.mark.promise(NOT_SEEN)
def test_no_image_of_the_four_sets_was_seen_but_the_stated_lung_fields(shared):
    seen = read_hashes(CARDS / "training-hashes.txt.gz")
    with open(shared / "segmentation/lung_train.csv", newline="") as file:
        allowed = {sha256(shared / "data" / row["image"]) for row in csv.DictReader(file)}
    assert len(seen) > 4000
    found = set()
    for name in ("brain", "covid", "lung", "breast"):
        for path in sorted((shared / "data" / name).rglob("*.*")):
            if (digest := sha256(path))[:DIGITS] in seen:
                found.add(digest)
                assert digest in allowed, path  # the publisher repeats some files byte for byte
                assert path.relative_to(shared / "data").parts[:2] == ("lung", "train"), path
    assert found == allowed


def test_the_cards_name_the_weights_and_the_best_prompt_on_held_out_images():
    for name in ("sam2-micro", "clip-micro"):
        assert sha256(WEIGHTS / f"{name}.safetensors") in (CARDS / f"{name}.md").read_text()
    card = json.loads((CARDS / "sam2-micro.json").read_text())
    assert card["sha256"] == sha256(WEIGHTS / "sam2-micro.safetensors")
    means = {
        name: np.mean([measured["prompts"][name]["mean"] for measured in card["held"].values()])
        for name, params in evaluate.PROMPTS.items()
        if not (STRATEGIES[params.prompt].columns or STRATEGIES[params.prompt].uses_truth)
    }
    assert set(means) == set(evaluate.WITHOUT_A_PROMPT)
    best = max(means, key=means.get)
    assert card["default"] == SegmentParams().prompt == best
    assert load_params(REPO / "params.yaml").segment.prompt == best


PROMPTS = """
templates: {default: ["a photo of a {}."]}
classes:
  brain: {zebra: zebra, night: black screen}
  covid: {zebra: zebra, night: black screen}
  lung: {zebra: zebra, night: black screen}
"""


def test_clip_is_probed_with_training_labels_and_tested_on_test_labels(tmp_path):
    """In lung the two training labels are exchanged: the probe fails, zero-shot does not."""
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    rng = np.random.default_rng(0)
    for name in judge_clip.SETS:
        for part, count in {"train": 9, "test": 4}.items():
            for label in ("zebra", "night"):
                exchanged = name == "lung" and part == "train"
                folder = tmp_path / name / part / label
                folder.mkdir(parents=True)
                for i in range(count):
                    image = rng.integers(0, 30, (80, 100, 3), np.uint8)
                    if (label == "zebra") != exchanged:
                        image[:, (np.arange(100) + i) % 12 < 6] += 200
                    Image.fromarray(image).save(folder / f"{i}.png")
    clip = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))
    measured = {r["set"]: r for r in judge_clip.judge(clip, tmp_path, tmp_path / "prompts.yaml")}
    assert list(measured) == list(judge_clip.SETS)
    assert {(row["n"], row["chance"]) for row in measured.values()} == {(8, 0.5)}
    assert measured["brain"]["probe"][0] == 1.0
    assert measured["lung"]["probe"][0] == 0.0
    assert measured["lung"]["zero"] == measured["brain"]["zero"]


def test_a_card_measures_the_weights_that_it_names(tmp_path, monkeypatch):
    shipped = load_file(micro_weights_path())
    weights = tmp_path / "elsewhere.safetensors"
    save_file(shipped | {PROJECTION: -shipped[PROJECTION]}, weights)
    measured = []
    monkeypatch.setattr(clip_projection, "training_pairs", tuple)  # takes a minute
    monkeypatch.setattr(clip_projection, "retrieval", lambda: {"top1": 0.5, "top5": 0.5})
    monkeypatch.setattr(judge_clip, "judge", lambda model, *_: measured.append(model) or [])
    report.report_clip(weights, tmp_path, tmp_path, tmp_path / "prompts.yaml")
    assert json.loads((tmp_path / "clip-micro.json").read_text())["sha256"] == sha256(weights)
    got = measured[0].model.state_dict()["text.proj.weight"]
    assert torch.equal(got, -shipped[PROJECTION].to(got.dtype))
