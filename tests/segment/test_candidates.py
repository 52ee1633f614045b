"""Stored candidates: the same masks as without them, another choice without the model, faults."""

import numpy as np
import pytest

from pipeline import open_candidates, open_masks
from pipeline.errors import StoreError
from pipeline.images import read_image
from pipeline.segment.segment import SegmentMapper
from pipeline.store import verify_store
from tests.project import DATASET

KEPT = (
    "Candidates of auto are stored once; another choice among them needs no second run of the "
    "model and gives the masks that it gives without them."
)


@pytest.fixture
def project(ellipses):
    made = ellipses(4)
    made.add("blank.png", np.zeros((40, 44, 3), np.uint8))
    return made


@pytest.fixture
def run(project, run):
    def segment(prompt="auto", **given):
        run(prompt, segment__max_failed=0.5, **given)
        return open_masks(project.paths.masks(DATASET))

    return segment


@pytest.fixture
def decoded(monkeypatch):
    """The number of prompts of each pass of the decoder from now on."""
    from pipeline.segment.predictor import BatchPredictor

    passes, decode = [], BatchPredictor.decode

    def counting(self, maps, prompts, *args, **options):
        passes.append(len(prompts))
        return decode(self, maps, prompts, *args, **options)

    monkeypatch.setattr(BatchPredictor, "decode", counting)
    return passes


def alone(project, sam2, prompt, name, **values):
    """The row of one image by the strategy itself, without any store."""
    params = project.params(segment__prompt=prompt, segment__grid=3, **values)
    mapper = SegmentMapper(params.segment, sam2)
    strategy = mapper.strategy
    (row,) = strategy.segment([strategy.prepare(read_image(project.file(f"{name}")), {})])
    return row


@pytest.mark.promise(KEPT)
def test_another_choice_needs_no_model_and_gives_the_masks_that_it_gives_alone(
    project, run, sam2, decoded
):
    run()
    assert sum(decoded) == 5 * 9
    auto, store = run(), open_candidates(project.paths.candidates(DATASET))
    decoded.clear()
    chosen = {"auto": auto, 1: None, 8: None}
    for k in (1, 8):
        masks = run("union", segment__union=k, on_mismatch="rebuild")
        chosen[k] = {name: masks[name] for name in masks}, masks.table()
    again = run(on_mismatch="rebuild", force=True)
    assert decoded == []
    for i in range(4):
        name = f"{i}.png"
        for k, masks, table in (
            (0, auto, auto.table()),
            (0, again, again.table()),
            (1, *chosen[1]),
            (8, *chosen[8]),
        ):
            asked = ("union", k) if k else ("auto", 3)
            row = alone(project, sam2, asked[0], name, segment__union=asked[1])
            assert np.array_equal(masks[name], row.mask)
            stored = table.loc[name, ["predicted_iou", "stability"]].tolist()
            assert stored == [np.float32(row.predicted_iou), np.float32(row.stability)]
            assert table.loc[name, "prompt"] == row.prompt
        assert np.array_equal(store[name][0], chosen[1][0][name])
        assert np.array_equal(store[name].any(axis=0), chosen[8][0][name])
    assert store["blank.png"].shape == (0, 40, 44)
    assert again.table().loc["blank.png", "reason"] == "blank"
    decoded.clear()
    with pytest.raises(StoreError, match="grid"):
        run(segment__grid=2)
    run(segment__grid=2, on_mismatch="rebuild")
    assert sum(decoded) == 5 * 4


@pytest.mark.promise(KEPT)
def test_the_ranking_has_score_and_area_of_each_candidate_and_names_no_label(project, run):
    run()
    store = open_candidates(project.paths.candidates(DATASET))
    ranking = store.ranking()
    assert ranking.index.names == ["image_id", "rank"]
    assert set(ranking.index.get_level_values(0)) == {f"{i}.png" for i in range(4)}
    for name, part in ranking.groupby(level=0):
        assert (np.diff(part["score"]) <= 0).all() and (part["score"] > 0).all()
        assert part["area"].tolist() == store[name].sum(axis=(1, 2)).tolist()
        assert len(part) == len(store[name]) <= 8
    assert "cat" not in str(store.identity) and store.identity["prompt"]["grid"] == 3
    assert verify_store(project.paths.candidates(DATASET)).ok


def test_lost_changed_and_limited_images_are_computed_again_alone(project, run, decoded):
    run(limit=2)
    assert sum(decoded) == 2 * 9
    run()
    assert sum(decoded) == 5 * 9
    decoded.clear()
    row = project.make_row("1.png", np.asarray(read_image(project.file("2.png"))))
    project.row("1.png").update({n: row[n] for n in ("sha256", "height", "width")})
    project.write()
    run()
    assert sum(decoded) == 0  # a copy of 2.png
    for shard in project.paths.candidates(DATASET).glob("candidate/c/0/*/*/*"):
        shard.write_bytes(shard.read_bytes()[:-9])
    assert not verify_store(project.paths.candidates(DATASET)).ok
    run("union", on_mismatch="rebuild")
    assert sum(decoded) == 3 * 9  # blank.png had nothing to lose
    assert verify_store(project.paths.candidates(DATASET)).damaged == ["2.png"]  # a copy now
    project.file("3.png").write_bytes(b"no image")
    masks = run(on_mismatch="rebuild", force=True)
    assert masks.table().loc["3.png", "status"] == "failed"
    assert "data refresh" in masks.table().loc["3.png", "reason"]
