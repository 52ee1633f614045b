"""Whatever decides a feature is part of its store's identity: another one is refused, by name."""

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
        self.run()

    def run(self, precision: str = "fp32", **changed):
        """Segment from the ground truth and encode, loading the weights from their file."""
        project = self.project
        spec = ModelSpec(name="ViT-B-32", checkpoint=str(self.weights))
        clip = load_clip(spec, precision=precision, config=self.config)
        values = {"segment__prompt": "manifest", "encode__views": ["whole", "masked"], **changed}
        params = project.params(**values)
        if not project.paths.masks(DATASET).exists():
            segment_dataset(DATASET, params, project.paths, RunOptions(workers=1))
        return encode_dataset(DATASET, params, project.paths, RunOptions(workers=1), clip=clip)

    def features(self) -> np.ndarray:
        store = open_features(self.project.paths.features(DATASET))
        return store.image_features("masked", [f"{i}.png" for i in range(3)])


@pytest.fixture
def encoded(tmp_path) -> Encoded:
    return Encoded(tmp_path)


def flip_a_bit(path) -> None:
    """Change one weight in its last place."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


def change_checkpoint(encoded, monkeypatch):
    flip_a_bit(encoded.weights)


def change_activation(encoded, monkeypatch):
    encoded.config = small_clip_config(quick_gelu=True)


def change_reader_rules(encoded, monkeypatch):
    monkeypatch.setattr(reader, "READER_VERSION", "another")


READER_RULES = f'reader.version: "{reader.READER_VERSION}" in the store'
CHANGES = {
    "checkpoint bytes": (change_checkpoint, {}, "sha256"),
    "activation": (change_activation, {}, "quick_gelu"),
    "fill": (None, {"encode__fill": "mean"}, 'fill: "black" in the store, "mean" now'),
    "geometry": (None, {"encode__geometry": "squash"}, 'geometry: "pad" in the store'),
    "precision": (None, {"precision": "bf16"}, 'model.precision: "fp32" in the store, "bf16" now'),
    "views": (None, {"encode__views": ["whole"]}, "views"),
    "reader rules": (change_reader_rules, {}, READER_RULES),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_choice_is_refused_with_the_difference_and_nothing_is_touched(
    encoded, monkeypatch, name
):
    change, values, told = CHANGES[name]
    before = encoded.features()
    if change is not None:
        change(encoded, monkeypatch)
    with pytest.raises(StoreError) as caught:
        encoded.run(**values)
    assert told in str(caught.value)
    assert "--force" in str(caught.value)
    np.testing.assert_array_equal(encoded.features(), before)


def test_another_template_encodes_the_texts_again_and_no_image(encoded):
    before = encoded.features()
    encoded.project.prompts("a scan of {}.")
    assert encoded.run().done == 0
    np.testing.assert_array_equal(encoded.features(), before)
    texts = open_features(encoded.project.paths.features(DATASET))
    assert texts.templates == ("a scan of {}.",)


def test_other_bytes_under_the_same_name_redo_that_image_alone_and_say_why(encoded):
    project, before = encoded.project, encoded.features()
    row = project.make_row("1.png", picture(9), np.eye(30, 40, dtype=bool))
    project.row("1.png").update(sha256=row["sha256"])
    project.write()
    params = project.params(segment__prompt="manifest")
    assert segment_dataset(DATASET, params, project.paths, RunOptions(workers=1)).redone_rows == {
        "1.png": "image bytes changed"
    }
    record = encoded.run()
    assert record.redone_rows == {"1.png": "image bytes changed"}
    after = encoded.features()
    assert np.abs(after[1] - before[1]).max() > 1e-4
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_bytes_that_changed_behind_the_manifests_back_fail_with_the_remedy(encoded):
    project = encoded.project
    project.make_row("1.png", picture(9))
    project.add("3.png", picture(3), np.eye(30, 40, dtype=bool))
    assert sha256_file(project.file("1.png")) != project.row("1.png")["sha256"]
    params = project.params(
        segment__prompt="manifest", segment__max_failed=0.5, encode__max_failed=0.5
    )
    record = segment_dataset(DATASET, params, project.paths, RunOptions(workers=1, force=True))
    assert set(record.failed) == {"1.png"}
    assert "pipeline data refresh" in record.failed["1.png"]
