"""Shards that vanish from a finished project: each command says so or computes just their rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.store_stage import store_content
from pipeline.store import open_features, open_masks
from tests.faults.site import IMAGES, OUTPUTS, STAGES, STORES, Site, draw_images

SMALL_SHARDS = """
import pipeline.store.shards as shards
shards.SHARD_ROWS = 8
from pipeline.cli import main
main()
"""
"""The command, which makes stores of eight rows a shard, so that 32 images fill several. What a
store was made with stays, so the commands after it are the plain ones."""

BATCH = ("--batch-size", "8")
"""The rows of a shard are computed in the batch they were first computed in: sums of floats are
rounded by the shape of the batch, and bit for bit is asked for here."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All stages have run on 32 images."""
    folder = tmp_path_factory.mktemp("images") / "toy"
    draw_images(folder, IMAGES)
    site = Site.added(tmp_path_factory.mktemp("whole") / "site", folder)
    for stage in STAGES:
        batch = BATCH if stage in STORES else ()
        site.stage(stage, *batch, program=("-c", SMALL_SHARDS)).expect(0)
    return site


def store_of(site: Site, stage: str) -> Path:
    return site.root / OUTPUTS[stage][0]


def lose(store: Path, array: str) -> list[str]:
    """Delete the second shard of a store; return the ids of its rows."""
    files = sorted(f for f in (store / array / "c").rglob("*") if f.is_file())
    assert len(files) == 4
    files[1].unlink()
    opened = open_masks(store) if store.name == "masks.zarr" else open_features(store)
    return list(opened)[8:16]


def test_a_lost_shard_of_features_stops_train_and_encode_computes_just_its_rows(
    whole: Site, tmp_path: Path
) -> None:
    site = whole.copy(tmp_path / "site")
    store = store_of(site, "encode")
    before, trained = store_content(store), site.outputs("train")
    lost = lose(store, "image_features")
    said = site.stage("train", "--force").expect(2, "lost data", "pipeline encode --dataset toy")
    assert {i for i in before if repr(i) in said} == set(lost[:5]) and "and 3 more" in said
    assert site.outputs("train") == trained
    said = site.stage("encode", *BATCH).expect(0, "8 computed", "24 there already")
    assert "8 lost from the store" in said
    assert redone(site, "encode") == set(lost)
    assert store_content(store) == before
    site.stage("train", "--force").expect(0)


def test_a_lost_shard_of_masks_fails_its_images_in_encode_and_segment_computes_just_its_rows(
    whole: Site, tmp_path: Path
) -> None:
    site = whole.copy(tmp_path / "site")
    masks, features = store_of(site, "segment"), store_of(site, "encode")
    before = store_content(masks), store_content(features)
    lost = lose(masks, "mask")
    site.stage("encode", "--force", *BATCH).expect(
        3, "8 of 32 images failed", repr(lost[0]), "lost data", "pipeline segment --dataset toy"
    )
    table = open_features(features).table()
    assert set(table.index[table.status == "failed"]) == set(lost)  # no feature of an empty mask
    site.stage("segment", *BATCH).expect(0, "8 computed", "24 there already")
    assert redone(site, "segment") == set(lost)
    assert store_content(masks) == before[0]
    site.stage("encode", *BATCH).expect(0, "8 computed", "24 there already")
    assert store_content(features) == before[1]


def redone(site: Site, stage: str) -> set[str]:
    """Ids of the rows that the last run of a stage computed because they were lost."""
    rows = json.loads((site.root / f"cache/toy/records/{stage}.json").read_text())["redone_rows"]
    return {image_id for image_id, reason in rows.items() if reason == "lost from the store"}
