"""The engine: same rows whatever the batch, failures by name, a record always."""

import json
import threading
import time
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks.cheap_stage import CheapMapper, item_of, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.engine import RunRecord
from pipeline.engine.executor import load_in_order
from pipeline.engine.status import status_rows, status_text
from pipeline.errors import ModelError, StageFailed, StoreError
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths
from pipeline.store import open_masks


def test_rows_do_not_depend_on_batch_size_workers_order_or_resuming(tmp_path):
    seen = []
    for k, (batch, workers, step) in enumerate([(1, 0, 1), (5, 3, 1), (4, 1, -1)]):
        folder = tmp_path / str(k)
        items = make_items(folder, 11)
        run_cheap("masks", folder, items[3:6], batch_size=batch)  # the rest is a second run
        run_cheap("masks", folder, items[::step], batch_size=batch, workers=workers)
        seen.append(content("masks", folder))
    assert seen[0] == seen[1] == seen[2]


def test_images_that_fail_are_named_and_the_rest_is_computed(tmp_path):
    items = make_items(tmp_path, 8)
    items[1] = item_of(items[1].path, 1, b"<html>")
    items[1].path.write_bytes(b"<html>")
    items[4].path.unlink()
    items[6].path.write_bytes(b"image, but other bytes")
    with pytest.raises(StageFailed) as caught:
        run_cheap("masks", tmp_path, items)
    assert caught.value.exit_code == 3 and "3 of 8" in str(caught.value)
    assert "remove the rows" in str(caught.value) and "from the manifest" in str(caught.value)
    record = RunRecord.read(tmp_path / "masks.json")
    assert record.status == "failed" and record.done == 5 and record.total == 8
    assert "not an image" in record.failed[items[1].image_id]
    assert "does not exist" in record.failed[items[4].image_id]
    assert "bytes changed since the manifest" in record.failed[items[6].image_id]
    table = open_masks(store_path(tmp_path, "masks")).table()
    assert (table.status == "ok").sum() == 5
    assert table.reason[items[4].image_id] == record.failed[items[4].image_id]


@pytest.mark.parametrize(("allowed", "fails"), [(0.0, True), (0.2, True), (0.25, False)])
def test_the_share_of_failures_decides_the_exit_code(tmp_path, allowed, fails):
    items = make_items(tmp_path, 4)
    items[0].path.write_bytes(b"")
    if fails:
        with pytest.raises(StageFailed):
            run_cheap("masks", tmp_path, items, max_failed=allowed)
    else:
        assert run_cheap("masks", tmp_path, items, max_failed=allowed).status == "ok"


def test_a_dataset_of_which_nothing_can_be_read_fails_and_leaves_a_store_that_says_so(tmp_path):
    items = make_items(tmp_path, 3)
    for item in items:
        item.path.write_bytes(b"")
    with pytest.raises(StageFailed, match="3 of 3"):
        run_cheap("masks", tmp_path, items, max_failed=0.5)
    assert set(open_masks(store_path(tmp_path, "masks")).table().status) == {"failed"}


def test_failed_images_are_tried_again_once_they_are_mended(tmp_path):
    items = make_items(tmp_path, 3)
    good = items[1].path.read_bytes()
    items[1].path.write_bytes(b"")
    run_cheap("masks", tmp_path, items, max_failed=1.0)
    items[1].path.write_bytes(good)
    record = run_cheap("masks", tmp_path, items)
    assert record.redone == {"failed before": 1} and record.done == 1 and record.skipped == 2


@pytest.mark.parametrize("cores", [1, 3])
def test_an_image_that_the_model_cannot_take_fails_alone(tmp_path, cores):
    items = make_items(tmp_path, 6)

    class Picky(CheapMapper):
        def map(self, items, loaded):
            if any(i.image_id.endswith("/3.bin") for i in items):
                raise RuntimeError("shape mismatch")
            return super().map(items, loaded)

    record = run_cheap("masks", tmp_path, items, mapper=Picky("masks"), max_failed=0.5, cores=cores)
    assert list(record.failed.values()) == ["RuntimeError: shape mismatch"]
    assert record.done == 5


def test_a_model_that_cannot_be_used_stops_the_run_and_the_record_says_so(tmp_path):
    class Broken(CheapMapper):
        def map(self, items, loaded):
            raise ModelError("checkpoint is an LFS pointer", remedy="git lfs pull")

    with pytest.raises(ModelError):
        run_cheap("masks", tmp_path, make_items(tmp_path, 3), mapper=Broken("masks"))
    record = RunRecord.read(tmp_path / "masks.json")
    assert record.status == "error" and "LFS pointer" in record.error


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_byte_copies_are_computed_once_and_copied(tmp_path, kind):
    items = make_items(tmp_path, 4)
    twins = []
    for k in (0, 0, 2):
        path = tmp_path / "images" / f"twin{len(twins)}.bin"
        path.write_bytes(items[k].path.read_bytes())
        twins.append(replace(items[k], image_id=f"twin/{len(twins)}", path=path))
    mapper = CheapMapper(kind)
    record = run_cheap(kind, tmp_path, [twins[0], *items, *twins[1:]], mapper=mapper)
    assert len(mapper.mapped) == 4 and record.copied == 3 and record.done == 7
    rows = content(kind, tmp_path)
    assert rows["twin/0"][0] == rows["twin/1"][0] == rows[items[0].image_id][0]
    assert rows["twin/2"][0] == rows[items[2].image_id][0] != rows["twin/0"][0]


def test_a_copy_whose_twin_cannot_be_read_is_computed_itself(tmp_path):
    items = make_items(tmp_path, 1)
    path = tmp_path / "images" / "twin.bin"
    path.write_bytes(items[0].path.read_bytes())
    items[0].path.unlink()
    twin = replace(items[0], image_id="twin", path=path)
    record = run_cheap("masks", tmp_path, [items[0], twin], max_failed=0.5)
    assert list(record.failed) == [items[0].image_id] and record.done == 1
    assert open_masks(store_path(tmp_path, "masks"))["twin"].any()


def test_limit_computes_so_many_and_the_next_run_the_rest(tmp_path):
    items = make_items(tmp_path, 5)
    assert run_cheap("masks", tmp_path, items, limit=2).done == 2
    assert run_cheap("masks", tmp_path, items).done == 3


def test_images_that_failed_come_last_so_that_a_limit_gets_past_them(tmp_path):
    items = make_items(tmp_path, 6)
    for item in items[:2]:
        item.path.write_bytes(b"")
    done = [run_cheap("masks", tmp_path, items, limit=2, max_failed=1.0).done for _ in range(4)]
    assert done == [0, 2, 2, 0]


def test_the_record_counts_times_and_names_versions_and_parameters(tmp_path):
    run_cheap("masks", tmp_path, make_items(tmp_path, 3), parameters={"fill": "black"})
    record = json.loads((tmp_path / "masks.json").read_text())
    assert record["done"] == 3 and record["skipped"] == 0
    assert {"total", "load_wait", "model", "write"} <= record["seconds"].keys()
    assert record["images_per_second"] > 0 and len(record["identity"]) == 64
    assert {"python", "zarr", "numpy"} <= record["versions"].keys()
    assert record["parameters"]["fill"] == "black" and record["parameters"]["batch_size"] == 4


def test_a_run_that_finds_all_there_keeps_what_the_work_cost(tmp_path):
    items = make_items(tmp_path, 4)
    first = run_cheap("masks", tmp_path, items[:3])
    again = run_cheap("masks", tmp_path, items[:3])
    assert again.done == 0
    cost = {"started": first.started, "done": 3, "skipped": 0, "seconds": first.seconds["total"]}
    cost["parts"] = first.seconds
    assert RunRecord.read(tmp_path / "masks.json").last_computed == cost
    run_cheap("masks", tmp_path, items)
    last = RunRecord.read(tmp_path / "masks.json").last_computed
    assert (last["done"], last["skipped"]) == (1, 3)


def test_loading_keeps_order_and_never_runs_far_ahead():
    lock, held, most = threading.Lock(), set(), 0

    def load(item):
        nonlocal most
        with lock:
            held.add(item)
            most = max(most, len(held))
        time.sleep(0.001 * (item % 3))
        return item

    class Item(int):
        row: dict = {}  # noqa: RUF012

    out = []
    for one in load_in_order(map(Item, range(60)), load, workers=4, ahead=6):
        assert one.error is None and one.item == one.row
        with lock:
            held.discard(one.item)
        out.append(one.row)
    assert out == list(range(60)) and most <= 7


def test_a_row_that_is_no_row_fails_alone(tmp_path):
    class Odd(CheapMapper):
        def map(self, items, loaded):
            rows = super().map(items, loaded)
            return [
                replace(r, mask=r.mask.astype(int)) if r.image_id.endswith("/1.bin") else r
                for r in rows
            ]

    record = run_cheap(
        "masks", tmp_path, make_items(tmp_path, 4), mapper=Odd("masks"), max_failed=1
    )
    assert record.done == 3 and "a mask is bool" in next(iter(record.failed.values()))


def test_status_shows_every_dataset_and_stage_at_a_glance(tmp_path):
    paths = Paths(tmp_path)
    ok = RunRecord("segment", "brain", status="ok", total=5, done=3, skipped=1)
    ok.failed = {"x.png": "truncated"}
    ok.write(paths.record("brain", "segment"))
    paths.record("lung", "encode").parent.mkdir(parents=True)
    paths.record("lung", "encode").write_text("{cut")
    rows = {(r["dataset"], r["stage"]): r for r in status_rows(paths, ["brain", "lung"])}
    assert rows["brain", "segment"]["failed"] == 1
    assert rows["brain", "segment"]["failures"] == {"x.png": "truncated"}
    assert rows["brain", "encode"]["status"] == "-"
    assert rows["lung", "encode"]["status"] == "damaged"
    text = status_text(status_rows(paths, ["brain", "lung"]))
    assert "failed 'x.png': truncated" in text and "lung" in text


@pytest.mark.parametrize(("kind", "stage"), [("masks", "segment"), ("features", "encode")])
def test_status_counts_what_each_store_lacks_of_the_manifest(tmp_path, kind, stage):
    paths = Paths(tmp_path)
    items = make_items(paths.cache("d"), 5)
    run_cheap(kind, paths.cache("d"), items[:3])
    RunRecord(stage, "d", status="ok", total=3, done=3).write(paths.record("d", stage))
    table = pd.DataFrame([{**dict.fromkeys(COLUMNS, ""), **item.row} for item in items])
    table["image_id"] = table["path"] = [item.image_id for item in items]
    table["frame"], table["synthetic"] = 0, "0"
    paths.manifest("d").parent.mkdir()
    write_manifest(table, paths.manifest("d"))
    rows = {row["stage"]: row["lacking"] for row in status_rows(paths, ["d"])}
    other = ({"segment", "encode"} - {stage}).pop()
    assert rows == {stage: (2, 5), other: None}
    lines = status_text(status_rows(paths, ["d"]))
    assert "lacks 2 of the 5 images" in lines and f"pipeline {stage} --dataset d" in lines


def test_a_second_run_of_the_same_stage_is_refused_while_the_first_is_at_work(tmp_path):
    items = make_items(tmp_path, 3)

    class Nested(CheapMapper):
        def map(self, batch, loaded):
            with pytest.raises(StoreError, match="being written by process"):
                run_cheap("masks", tmp_path, items)
            return super().map(batch, loaded)

    assert run_cheap("masks", tmp_path, items, mapper=Nested("masks")).done == 3
