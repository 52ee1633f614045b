"""Whatever decides a feature is part of the identity of its store: another choice is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import open_features
from pipeline.encode import encode_dataset
from pipeline.engine import RunOptions
from pipeline.errors import StoreError
from pipeline.images import read as reader
from pipeline.io import sha256_file
from pipeline.models import ModelSpec, load_clip
from pipeline.segment import segment_dataset
from tests.models.small import save_clip, small_clip_config
from tests.project import DATASET, Project

OTHER_BYTES = (
    "Other bytes under the same name recompute that image alone; bytes that changed without the "
    "manifest fail with the remedy."
)
CHANGES = {
    "checkpoint bytes": ({}, "sha256"),
    "activation": ({}, "quick_gelu"),
    "fill": ({"encode__fill": "mean"}, "fill"),
    "geometry": ({"encode__geometry": "squash"}, "geometry"),
    "precision": ({"precision": "bf16"}, "model.precision"),
    "views": ({"encode__views": ["whole"]}, "views"),
    "reader rules": ({}, "reader.version"),
}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


class Encoded:
    """A project of three images, encoded with a CLIP whose weights are a file."""

    def __init__(self, root):
        self.weights = save_clip(root / "clip.safetensors")
        self.project = Project(root / "project")
        self.config = small_clip_config()
        for i in range(3):
            self.project.add(f"{i}.png", picture(i), np.eye(30, 40, dtype=bool))
        self.project.row("2.png")["label"] = "dog"
        self.project.write()
        self.segment()
        self.run()

    def segment(self, **changed):
        """Segment from the ground truth."""
        params = self.project.params(segment__prompt="manifest", **changed)
        options = RunOptions(workers=1)
        return segment_dataset(DATASET, params, self.project.paths, options)

    def run(self, precision: str = "fp32", **changed):
        """Encode, loading the weights from their file."""
        spec = ModelSpec(name="ViT-B-32", checkpoint=str(self.weights))
        clip = load_clip(spec, precision=precision, config=self.config)
        params = self.project.params(**{"encode__views": ["whole", "masked"], **changed})
        options = RunOptions(workers=1)
        return encode_dataset(DATASET, params, self.project.paths, options, clip=clip)

    def features(self) -> np.ndarray:
        store = open_features(self.project.paths.features(DATASET))
        return store.image_features("masked", [f"{i}.png" for i in range(3)])


@pytest.fixture
def encoded(tmp_path) -> Encoded:
    return Encoded(tmp_path)


@pytest.mark.promise(
    "Another checkpoint (by one bit), activation, fill, geometry, precision, prompt or reader rule "
    "is refused with the difference."
)
def test_another_choice_is_refused_with_the_difference_and_nothing_is_touched(encoded, monkeypatch):
    before, weights = encoded.features(), encoded.weights.read_bytes()
    for name, (values, told) in CHANGES.items():
        with monkeypatch.context() as patch, pytest.raises(StoreError) as caught:
            if name == "checkpoint bytes":
                data = bytearray(weights)
                data[-4] ^= 1  # one weight, in its last place
                encoded.weights.write_bytes(data)
            if name == "activation":
                patch.setattr(encoded, "config", small_clip_config(quick_gelu=True))
            if name == "reader rules":
                patch.setattr(reader, "READER_VERSION", "another")
            encoded.run(**values)
        encoded.weights.write_bytes(weights)
        assert told in str(caught.value) and "--force" in str(caught.value), name
        assert np.array_equal(encoded.features(), before)


@pytest.mark.promise(OTHER_BYTES)
def test_other_bytes_under_the_same_name_recompute_that_image_alone_and_say_why(encoded):
    project, before = encoded.project, encoded.features()
    row = project.make_row("1.png", picture(9), np.eye(30, 40, dtype=bool))
    project.row("1.png").update(sha256=row["sha256"])
    project.write()
    for record in (encoded.segment(), encoded.run()):
        assert record.redone_rows == {"1.png": "image bytes changed"}
    after = encoded.features()
    assert np.abs(after[1] - before[1]).max() > 1e-4
    assert np.array_equal(after[[0, 2]], before[[0, 2]])


@pytest.mark.promise(OTHER_BYTES)
def test_bytes_that_changed_without_the_manifest_fail_with_the_remedy(encoded):
    project = encoded.project
    project.make_row("1.png", picture(9))
    project.add("3.png", picture(3), np.eye(30, 40, dtype=bool))
    assert sha256_file(project.file("1.png")) != project.row("1.png")["sha256"]
    params = project.params(segment__prompt="manifest", segment__max_failed=0.5)
    options = RunOptions(workers=1, force=True)
    record = segment_dataset(DATASET, params, project.paths, options)
    assert set(record.failed) == {"1.png"}
    assert "pipeline data refresh" in record.failed["1.png"]
