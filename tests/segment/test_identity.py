"""Whatever decides a mask is part of the identity of its store: another choice is refused."""

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
CHANGES = {
    "checkpoint bytes": ({}, "sha256"),
    "precision": ({"precision": "bf16"}, "model.precision"),
    "prompt": ({"prompt": "salient"}, "prompt.strategy"),
    "box of the prompt": ({"segment__center_box": 0.5}, "prompt.center_box"),
    "min_area": ({"segment__min_area": 0.01}, "status.min_area"),
    "reader rules": ({}, "reader.version"),
}


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
        options = RunOptions(workers=1)
        return segment_dataset(DATASET, params, self.project.paths, options, predictor=predictor)

    def masks(self) -> np.ndarray:
        store = open_masks(self.project.paths.masks(DATASET))
        return np.stack([store[f"{i}.png"] for i in range(2)])


@pytest.mark.promise(
    "Another checkpoint (by one bit), activation, fill, geometry, precision, prompt or reader rule "
    "is refused with the difference."
)
def test_another_choice_is_refused_with_the_difference_and_nothing_is_touched(
    tmp_path, monkeypatch
):
    segmented = Segmented(tmp_path)
    before = segmented.masks()
    for name, (values, told) in CHANGES.items():
        with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
            if name == "checkpoint bytes":
                data = bytearray(WEIGHTS.read_bytes())
                data[-2] ^= 1  # one weight, in its last place
                segmented.weights.write_bytes(data)
            if name == "reader rules":
                patch.setattr(reader, "READER_VERSION", "another")
            segmented.run(**values)
        segmented.weights.write_bytes(WEIGHTS.read_bytes())
        assert told in str(caught.value) and "--force" in str(caught.value), name
        assert np.array_equal(before, segmented.masks())


@pytest.mark.promise(
    "Other bytes under the same name recompute that image alone; bytes that changed without the "
    "manifest fail with the remedy."
)
def test_other_bytes_under_the_same_name_recompute_that_image_alone_and_say_why(tmp_path):
    segmented = Segmented(tmp_path)
    project = segmented.project
    row = project.make_row("1.png", scene(9, 40, 60)[0])
    project.row("1.png").update(sha256=row["sha256"])
    project.write()
    record = segmented.run()
    assert record.redone_rows == {"1.png": "image bytes changed"}
    assert (record.done, record.skipped) == (1, 1)
