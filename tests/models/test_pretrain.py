"""The embedded models: which images they saw, and what their cards say of images held out."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import SegmentParams, load_params
from pipeline.models import DIGITS, trained_on
from pipeline.segment.strategies import STRATEGIES
from tools.pretrain import evaluate

REPO = Path(__file__).resolve().parents[2]
CARDS, WEIGHTS = REPO / "pipeline/models/cards", REPO / "pipeline/models/weights"
NOT_SEEN = (
    "The embedded models saw no image of the four study sets, except some lung training images "
    "(for their lung fields), which the model card states."
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
