"""Whatever decides a mask is part of its store's identity: another one is refused, by name."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest

from pipeline import open_masks
from pipeline.engine import RunOptions
from pipeline.errors import StoreError
from pipeline.images import read as reader
from pipeline.models import ModelSpec, load_sam2
from pipeline.segment import segment_dataset
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene

WEIGHTS = files("pipeline.models") / "weights/sam2-micro.safetensors"


class Segmented:
    """A project of two images, segmented with SAM2-micro whose weights are a file."""

    def __init__(self, root):
        self.weights = root / "sam2.safetensors"
        self.weights.write_bytes(WEIGHTS.read_bytes())
        self.project = Project(root / "project")
        for i in range(2):
            self.project.add(f"{i}.png", scene(i, 40, 60)[0])
        self.run()

    def run(self, precision: str = "fp32", prompt: str = "center-box", **changed):
        spec = ModelSpec(name="sam2-micro", checkpoint=str(self.weights))
        params = self.project.params(segment__prompt=prompt, **changed)
        predictor = load_sam2(spec, precision=precision)
        return segment_dataset(
            DATASET, params, self.project.paths, RunOptions(workers=1), predictor=predictor
        )

    def masks(self) -> list[np.ndarray]:
        store = open_masks(self.project.paths.masks(DATASET))
        return [store[f"{i}.png"] for i in range(2)]


@pytest.fixture
def segmented(tmp_path) -> Segmented:
    return Segmented(tmp_path)


def change_checkpoint(segmented, monkeypatch):
    data = bytearray(segmented.weights.read_bytes())
    data[-2] ^= 1  # one weight, in its last place
    segmented.weights.write_bytes(data)


def change_reader_rules(segmented, monkeypatch):
    monkeypatch.setattr(reader, "READER_VERSION", "another")


READER_RULES = f'reader.version: "{reader.READER_VERSION}" in the store'
CHANGES = {
    "checkpoint bytes": (change_checkpoint, {}, "sha256"),
    "precision": (None, {"precision": "bf16"}, 'model.precision: "fp32" in the store, "bf16" now'),
    "prompt": (None, {"prompt": "salient"}, 'prompt.strategy: "center-box" in the store'),
    "prompt's box": (None, {"segment__center_box": 0.5}, "prompt.center_box: 0.7 in the store"),
    "min_area": (None, {"segment__min_area": 0.01}, "status.min_area: 0.002 in the store"),
    "reader rules": (change_reader_rules, {}, READER_RULES),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_choice_is_refused_with_the_difference_and_nothing_is_touched(
    segmented, monkeypatch, name
):
    change, values, told = CHANGES[name]
    before = segmented.masks()
    if change is not None:
        change(segmented, monkeypatch)
    with pytest.raises(StoreError) as caught:
        segmented.run(**values)
    assert told in str(caught.value)
    assert "--force" in str(caught.value)
    for old, new in zip(before, segmented.masks(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_other_bytes_under_the_same_name_redo_that_image_alone_and_say_why(segmented):
    project = segmented.project
    row = project.make_row("1.png", scene(9, 40, 60)[0])
    project.row("1.png").update(sha256=row["sha256"])
    project.write()
    record = segmented.run()
    assert record.redone_rows == {"1.png": "image bytes changed"}
    assert (record.done, record.skipped) == (1, 1)
