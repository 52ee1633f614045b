"""Stored embeddings: the same masks to the bit in both precisions, other prompts without the
encoder, never those of another image, model or precision."""

import json
import shutil
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.engine.options import RunOptions
from pipeline.errors import StoreError
from pipeline.images import read_image
from pipeline.models import Sam2ImagePredictor
from pipeline.review.server import Ask, Review
from pipeline.segment.embeddings import same_embeddings, stored_embedding
from pipeline.segment.predictor import BatchPredictor
from pipeline.segment.prompt_quality import measure_prompts
from pipeline.store import EmbeddingStore, open_masks, verify_store
from tests.project import DATASET
from tests.segment.small_sam2 import untrained

SAME = (
    "Masks made from stored embeddings are, to the bit, those that are made without; another "
    "prompt on whole images needs no encoder."
)
QUIET = {"workers": 1, "batch_size": 2, "progress": False}


@pytest.fixture
def project(ellipses):
    made = ellipses(3)
    made.add("blank.png", np.zeros((40, 44, 3), np.uint8))
    return made


@pytest.fixture
def run(project, run):
    """`run("points", keep=True)`: segment; returns mask, prompt and scores of each image."""

    def segment(prompt, keep=False, variant="", **given):
        changed = {"segment__grid": 2, "segment__max_failed": 0.5, "on_mismatch": "rebuild"} | given
        run(prompt, segment__embeddings=keep, variant=variant, **changed)
        masks = open_masks(project.paths.masks(DATASET, variant))
        columns = ["status", "prompt", "predicted_iou", "stability", "crc"]
        return masks.table()[columns], {name: masks[name] for name in masks}

    return segment


@contextmanager
def encoded(predictor):
    """The sizes of the batches that its encoder gets."""
    batches, forward = [], predictor.model.forward_image
    predictor.model.forward_image = lambda x: batches.append(len(x)) or forward(x)
    try:
        yield batches
    finally:
        del predictor.model.forward_image


def same(one, other):
    pd.testing.assert_frame_equal(one[0], other[0], check_exact=True)
    assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_are_the_same_to_the_bit_and_only_crops_are_encoded(project, run, sam2, precision):
    model = deepcopy(sam2.model).to(memory_format=torch.channels_last)  # as `load_sam2` has it
    sam2 = Sam2ImagePredictor(model, [0.5] * 3, [0.25] * 3, precision, {"name": precision})
    for row in project.rows:
        row.update(box="3,4,20,19", points="9,8,1;30,30,0")
    project.write()
    prompts = {
        "salient": {},
        "box": {"segment__zoom": 0},
        "union": {},
        "salient-refine": {"segment__zoom": 1.2},
    }
    without = {p: run(p, predictor=sam2, **given) for p, given in prompts.items()}
    assert not project.paths.embeddings(DATASET).exists()
    shutil.rmtree(project.paths.candidates(DATASET))
    with encoded(sam2) as batches:
        for prompt, given in prompts.items():
            batches.clear()
            same(run(prompt, keep=prompt == "salient", predictor=sam2, **given), without[prompt])
            whole = {"salient": 4 + 1}.get(prompt, 0)  # and one that shows the shapes
            crops = sum(" on " in text for text in without[prompt][0]["prompt"])
            assert sum(batches) == whole + crops
            assert bool(crops) == (prompt == "salient-refine")
        store = EmbeddingStore(project.paths.embeddings(DATASET))
        batches.clear()
        same(run("salient", keep=True, force=True, predictor=sam2), without["salient"])
        assert batches == []
    bits = "float32" if precision == "fp32" else "int16"
    assert [level["dtype"] for level in store.attrs["levels"]] == [bits, bits, "float32"]
    assert [one.shape for one in store["1.png"]] == [(4, 16, 16), (8, 8, 8), (32, 4, 4)]
    frames = [BatchPredictor(sam2).preprocess(read_image(project.file(f"{i}.png"))) for i in (0, 1)]
    stored = [stored_embedding(store, row) for row in project.rows[:2]]
    for one, other in zip(*map(BatchPredictor(sam2).embed, (frames, stored)), strict=True):
        # The order in memory decides the last bits of a decoder in bf16.
        assert torch.equal(one, other) and one.stride() == other.stride()
    assert verify_store(store.path).ok and "cat" not in json.dumps(store.attrs)


@pytest.mark.promise("An embedding of another image, model, precision or window is never used.")
def test_what_is_of_other_choices_or_damaged_is_made_again_and_never_used(
    project, run, sam2, monkeypatch
):
    first = run("salient", keep=True, predictor=sam2)
    path = project.paths.embeddings(DATASET)
    with encoded(sam2) as batches:
        row = project.make_row("1.png", np.asarray(read_image(project.file("2.png")))[::-1])
        project.row("1.png").update({n: row[n] for n in ("sha256", "height", "width")})
        project.write()
        second = run("salient", predictor=sam2)  # nothing is kept without the parameter
        assert batches == [1] and not np.array_equal(second[1]["1.png"], first[1]["1.png"])
    (shard,) = path.glob("embedding/c/*/0")
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    assert len(verify_store(path).damaged) == 1
    with encoded(sam2) as batches:
        same(run("salient", force=True, predictor=sam2), second)
        assert sum(batches) == 2  # the damaged one, and the one with other bytes
        batches.clear()
        same(run("salient", keep=True, force=True, predictor=sam2), second)
        assert sum(batches) == 2 and verify_store(path).ok
    found = lambda sam2, window=None: same_embeddings(DATASET, project.paths, sam2, window)  # noqa: E731
    assert found(sam2) and not found(sam2, (40, 400)) and not found(untrained(1))
    with encoded(other := untrained(1)) as batches:
        run("salient", keep=True, predictor=other, variant="adapted/0")  # has no store of its own
        assert sum(batches) == 4 and found(sam2)
        with pytest.raises(StoreError, match=r"embeddings.zarr: .*seed: 0 .* 1 now.* --force"):
            shutil.rmtree(project.paths.masks(DATASET))
            run("salient", keep=True, predictor=other, on_mismatch="refuse")
        batches.clear()
        run("salient", predictor=other)  # without the parameter the store stands, unused
        assert sum(batches) == 4 and found(sam2) and not found(other)
        run("salient", keep=True, predictor=other, force=True)
        assert found(other) and not found(sam2)
    monkeypatch.setattr(other, "precision", "bf16")
    assert not found(other)


def test_measuring_prompts_and_review_take_what_is_stored(project, run, sam2):
    names = ["salient", "points", "box"]
    params = project.params(prompt_quality__strategies=names, segment__zoom=0)
    tables, answers, asked = [], [], project.rows[1]
    ask = Ask(id=asked["image_id"], sha256=asked["sha256"], points=[(20, 20, 1)])
    with encoded(sam2) as batches:
        for kept in (False, True):
            if kept:
                run("salient", keep=True, predictor=sam2)
                batches.clear()
            given = RunOptions(**QUIET, force=True)
            measure_prompts(DATASET, params, project.paths, given, predictor=sam2)
            tables.append(pd.read_parquet(project.paths.prompt_quality(DATASET)))
            answers.append(Review(DATASET, params, project.paths, "random", sam2).ask(ask))
            assert bool(batches) != kept
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert answers[0] == answers[1]
