"""A stage run by the engine: which rows are computed, which fail, what the record says."""

import pickle
import tracemalloc
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import pytest
import torch

from benchmarks.cheap_stage import CheapMapper, item_of, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import image_items
from pipeline.engine.status import status_rows, status_text
from pipeline.errors import ConfigError, ModelError, StageFailed
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths
from pipeline.store import open_masks
from tests.project import manifest_of

SAME_ROWS = "Masks and features do not depend on batch size, cores, workers, order or resuming."
FAILURES = (
    "Images that fail are named, the rest is computed, and the share of failures decides the exit "
    "code."
)
STATUS = (
    "`pipeline status` counts the images of the current manifest that a store lacks or has of "
    "other bytes, whatever its last run said."
)


@pytest.mark.promise(SAME_ROWS)
@pytest.mark.parametrize("kind", ["masks", "features"])
def test_rows_do_not_depend_on_batch_size_cores_workers_order_or_resuming(tmp_path, kind):
    seen = []
    runs = [(1, 1, 1, 1), (5, 3, 1, 2), (4, 1, -1, 5)]
    for k, (batch_size, workers, step, cores) in enumerate(runs):
        folder = tmp_path / str(k)
        items = make_items(folder, 11)
        options = {"batch_size": batch_size, "workers": workers, "cores": cores}
        run_cheap(kind, folder, items[3:6], **options)  # the rest is a second run
        run_cheap(kind, folder, items[::step], **options)
        seen.append(content(kind, folder))
    assert seen[0] == seen[1] == seen[2]


def test_items_have_the_rows_of_the_manifest_and_take_little_memory(tmp_path):
    table = pd.DataFrame({name: ["x"] * 3000 for name in COLUMNS}, dtype="str")
    table = table.assign(frame=7, image_id=[f"{k}.png" for k in range(3000)])
    tracemalloc.start()
    items = image_items(table, tmp_path, lambda row: {"box": row["box"]})
    assert tracemalloc.get_traced_memory()[0] / len(items) < 900  # a dict of each row: 1,300
    tracemalloc.stop()
    items[1].row["mask"] = 1
    expected = [row | {"truth_file": ""} for row in table[:3].to_dict("records")]
    expected[1]["mask"] = 1
    assert [item.row for item in items[:3]] == expected and type(items[0].row["frame"]) is int
    sent = pickle.loads(pickle.dumps(items[1]))
    assert type(sent.row) is dict and sent == items[1] and "truth_file" not in table


@pytest.mark.promise(FAILURES)
def test_images_that_fail_are_named_and_the_rest_is_computed(tmp_path):
    items = make_items(tmp_path, 8)
    items[1] = item_of(items[1].path, 1, b"<html>")
    items[1].path.write_bytes(b"<html>")
    items[4].path.unlink()
    items[6].path.write_bytes(b"image, but other bytes")
    with pytest.raises(StageFailed, match="3 of 8") as caught:
        run_cheap("masks", tmp_path, items)
    assert caught.value.exit_code == 3 and "manifest" in caught.value.remedy
    record = RunRecord.read(tmp_path / "masks.json")
    assert record.status == "failed" and record.done == 5 and record.total == 8
    assert {"total", "load_wait", "model", "write"} <= record.seconds.keys()
    assert {"python", "zarr", "numpy"} <= record.versions.keys() and len(record.identity) == 64
    assert {"batch_size": 4, "workers": 2, "cores": 1}.items() <= record.parameters.items()
    assert "not an image" in record.failed[items[1].image_id]
    assert "does not exist" in record.failed[items[4].image_id]
    assert "bytes changed since the manifest" in record.failed[items[6].image_id]
    store = open_masks(store_path(tmp_path, "masks"))
    assert (store.table().status == "ok").sum() == 5
    whole = tmp_path / "whole"
    run_cheap("masks", whole, make_items(whole, 8))
    expected = open_masks(store_path(whole, "masks"))
    for i in (0, 2, 3, 5, 7):
        assert (store[items[i].image_id] == expected[items[i].image_id]).all()


@pytest.mark.promise("Bytes that change under the same name are noticed by all who read them.")
@pytest.mark.parametrize("kind", ["masks", "features"])
@pytest.mark.parametrize("first", [3, 8], ids=["resumed", "finished"])
def test_a_stored_image_of_other_bytes_is_named_and_its_row_kept_until_the_manifest_says_so(
    tmp_path, kind, first
):
    items = make_items(tmp_path, 8)
    run_cheap(kind, tmp_path, items[:first])
    before, changed, gone = content(kind, tmp_path), items[1], items[2]
    good = changed.path.read_bytes()
    changed.path.write_bytes(good[::-1])
    gone.path.unlink()  # the row of a file that is gone stands
    with pytest.raises(StageFailed, match="1 of 8"):
        run_cheap(kind, tmp_path, items)
    record = run_cheap(kind, tmp_path, items, max_failed=0.2)
    assert list(record.failed) == [changed.image_id] and record.skipped == 7
    assert "data refresh" in record.failed[changed.image_id]
    assert before.items() <= content(kind, tmp_path).items()
    changed.path.write_bytes(good)
    assert run_cheap(kind, tmp_path, items).done == 0
    changed.path.write_bytes(b"image, but another one")
    items[1] = item_of(changed.path, 1, changed.path.read_bytes())
    record = run_cheap(kind, tmp_path, items)
    assert record.redone == {"image bytes changed": 1} and not record.failed


@pytest.mark.promise(FAILURES)
@pytest.mark.parametrize(("bad", "allowed"), [(1, 0.2), (1, 0.25), (4, 0.5)])
def test_the_share_of_failures_decides_the_exit_code(tmp_path, bad, allowed):
    items = make_items(tmp_path, 4)
    for item in items[:bad]:
        item.path.write_bytes(b"")
    fails = pytest.raises(StageFailed, match=f"{bad} of 4") if bad / 4 > allowed else nullcontext()
    with fails:
        assert run_cheap("masks", tmp_path, items, max_failed=allowed).status == "ok"
    table = open_masks(store_path(tmp_path, "masks")).table()
    assert (table.status == "failed").sum() == bad


class Picky(CheapMapper):
    """Cannot map one image, and returns a mask of a wrong type for another."""

    def map(self, items, loaded):
        if any(i.image_id.endswith("/3.bin") for i in items):
            raise RuntimeError("shape mismatch")
        rows = super().map(items, loaded)
        wrong = [r.image_id.endswith("/1.bin") for r in rows]
        return [
            replace(r, mask=r.mask.astype(int)) if w else r
            for r, w in zip(rows, wrong, strict=True)
        ]


@pytest.mark.promise("An image that a model cannot process fails alone.")
@pytest.mark.parametrize("cores", [1, 3])
def test_an_image_that_the_model_cannot_process_fails_alone(tmp_path, cores):
    items, mapper = make_items(tmp_path, 6), Picky("masks")
    record = run_cheap("masks", tmp_path, items, mapper=mapper, max_failed=0.5, cores=cores)
    assert record.done == 4 and len(record.failed) == 2
    reasons = " ".join(record.failed.values())
    assert "RuntimeError: shape mismatch" in reasons and "a mask is bool" in reasons


def test_a_model_that_cannot_be_used_ends_the_run_and_keeps_what_was_computed(tmp_path):
    class Broken(CheapMapper):
        def map(self, items, loaded):
            if self.mapped:
                raise ModelError("checkpoint is an LFS pointer", remedy="git lfs pull")
            return super().map(items, loaded)

    with pytest.raises(ModelError):
        run_cheap("masks", tmp_path, make_items(tmp_path, 6), mapper=Broken("masks"))
    record = RunRecord.read(tmp_path / "masks.json")
    assert record.status == "error" and "LFS pointer" in record.error
    assert record.done == len(open_masks(store_path(tmp_path, "masks"))) == 4


def test_a_copy_whose_original_cannot_be_read_is_computed(tmp_path):
    items = make_items(tmp_path, 1)
    path = tmp_path / "images" / "twin.bin"
    path.write_bytes(items[0].path.read_bytes())
    items[0].path.unlink()
    twin = replace(items[0], image_id="twin", path=path)
    record = run_cheap("masks", tmp_path, [items[0], twin], max_failed=0.5)
    assert list(record.failed) == [items[0].image_id] and record.done == 1
    assert open_masks(store_path(tmp_path, "masks"))["twin"].any()


@pytest.mark.promise("`--limit` gets past images that failed before.")
def test_images_that_failed_come_last_so_that_a_limit_gets_past_them(tmp_path):
    items = make_items(tmp_path, 6)
    for item in items[:2]:
        item.path.write_bytes(b"")
    done = [run_cheap("masks", tmp_path, items, limit=2, max_failed=1.0).done for _ in range(4)]
    assert done == [0, 2, 2, 0]


@pytest.mark.promise(STATUS)
@pytest.mark.parametrize(("kind", "stage"), [("masks", "segment"), ("features", "encode")])
def test_status_counts_what_each_store_lacks_of_the_manifest(tmp_path, kind, stage):
    paths = Paths(tmp_path)
    items = make_items(paths.cache("d"), 5)
    run_cheap(kind, paths.cache("d"), items[:3])
    record = RunRecord(stage, "d", status="ok", total=4, done=3, failed={"x.png": "truncated"})
    record.write(paths.record("d", stage))
    digests = ["0" * 64, *(item.row["sha256"] for item in items[1:])]
    table = manifest_of([item.image_id for item in items], sha256=digests)
    paths.manifest("d").parent.mkdir()
    write_manifest(table, paths.manifest("d"))
    paths.record("d", "train-x").write_text("{cut")
    found = status_rows(paths, ["d"])
    rows = {row["stage"]: (row["status"], row["lacking"]) for row in found}
    other = ({"segment", "encode"} - {stage}).pop()
    assert rows == {stage: ("ok", (3, 5)), other: ("-", None), "train-x": ("damaged", None)}
    text = status_text(found)
    assert f"pipeline {stage} --dataset d" in text and "failed 'x.png': truncated" in text


@pytest.mark.parametrize("precision, used", [("auto", "bf16"), ("fp32", "fp32")])
def test_fp32_on_a_gpu_is_not_tf32(monkeypatch, precision, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there need not be one
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = RunOptions(device="cuda:0").model_options(precision)
    assert found == {"device": "cuda:0", "precision": used}
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(ConfigError, match="no device 'xpu' here"):
        RunOptions(device="xpu").model_options(precision)
