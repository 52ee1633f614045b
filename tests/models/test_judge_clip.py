"""The accuracy rows of CLIP-micro's card, on folders of drawn images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.models import ModelSpec, load_clip
from pipeline.pretrain import judge_clip

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
