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

from pipeline.config import SegmentParams, load_params
from pipeline.models import DIGITS, ModelSpec, load_sam2, trained_on
from pipeline.segment.strategies import STRATEGIES
from tools.pretrain import data, evaluate, loop, phantoms, run

REPO = Path(__file__).resolve().parents[2]
CARDS, WEIGHTS = REPO / "pipeline/models/cards", REPO / "pipeline/models/weights"
SHORT = loop.TrainConfig(steps=2, batch=4, warmup=1)
NOT_SEEN = (
    "The embedded models saw no image of the four study sets, except some lung training images "
    "(for their lung fields), which the model card states."
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_training_is_reproducible_never_draws_held_out_images_and_writes_what_loads(tmp_path):
    drawn = data.load_phantoms(0, {kind: 1 for kind in phantoms.KINDS})
    held_out = [replace(i, image=torch.full_like(i.image, 255), held_out=True) for i in drawn]
    before = {k: v.clone() for k, v in run.new_micro(0).state_dict().items()}
    path = tmp_path / "sam2-micro.safetensors"
    first, model = (
        loop.train(run.new_micro(0), items, SHORT, autocast=False)
        for items in (drawn, [*drawn, *held_out])
    )
    first, second = first.state_dict(), model.state_dict()
    run.save_weights(model, path, {})
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {k for k in before if not torch.equal(before[k], first[k])}
    assert any(k.startswith("sam_mask_decoder") for k in changed)
    frozen = ("image_encoder.trunk.body.conv_stem", "running_")
    assert not any(part in k for k in changed for part in frozen)
    load_sam2(ModelSpec(name="sam2-micro", checkpoint=str(path)))


@pytest.mark.promise(NOT_SEEN)
def test_no_image_of_the_four_sets_was_seen_but_the_stated_lung_fields(shared):
    seen = trained_on(sha256(WEIGHTS / "sam2-micro.safetensors"))
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
