"""The executor: results in order, read-ahead bounded, slices mapped at the same time."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.cheap_stage import CheapMapper, make_items, run_cheap
from pipeline.engine import LocalExecutor, RunOptions, RunRecord
from pipeline.engine.executor import load_in_order
from pipeline.errors import ConfigError, ImageError, ModelError
from pipeline.store import MaskStoreWriter


class Number(int):
    """An item without a manifest row."""

    row: dict = {}  # noqa: RUF012


def test_results_keep_the_order_of_the_items_and_failures_their_place(tmp_path):
    items = make_items(tmp_path, 7)
    items[2].path.unlink()
    items[5].path.write_bytes(b"image, but other bytes")
    for batch_size, workers in ((1, 0), (3, 2), (7, 4)):
        executor = LocalExecutor(batch_size, workers)
        results = list(executor.imap(lambda: CheapMapper("masks"), items))
        assert [r.item for r in results] == items
        assert [isinstance(r.error, ImageError) for r in results] == [i in (2, 5) for i in range(7)]
        for result in results:
            assert result.error or result.row.image_id == result.item.image_id


def test_the_mapper_is_built_once_by_the_executor(tmp_path):
    built = []
    list(
        LocalExecutor(2).imap(
            lambda: built.append(1) or CheapMapper("masks"), make_items(tmp_path, 5)
        )
    )
    assert built == [1]


@pytest.mark.parametrize("kind", [ModelError, ConfigError])
def test_an_error_that_no_item_is_to_blame_for_ends_the_iteration(tmp_path, kind):
    class Broken(CheapMapper):
        def map(self, items, loaded):
            raise kind("unusable")

    with pytest.raises(kind):
        list(LocalExecutor(2).imap(lambda: Broken("masks"), make_items(tmp_path, 3)))


def test_read_ahead_is_bounded():
    lock, held, most = threading.Lock(), set(), 0

    def load(item):
        nonlocal most
        with lock:
            held.add(item)
            most = max(most, len(held))
        time.sleep(0.001 * (item % 3))
        return item

    out = []
    for result in load_in_order(map(Number, range(60)), load, workers=4, ahead=6):
        with lock:
            held.discard(result.item)
        out.append(result.row)
    assert out == list(range(60)) and most <= 7


class Calls:
    """A mapper that loads the item itself and maps with a function."""

    device = ""

    def __init__(self, function):
        self.map = function

    def load(self, item):
        return item


def mapped(function, n, *, batch_size, cores):
    executor = LocalExecutor(batch_size, 0, cores)
    return list(executor.imap(lambda: Calls(function), map(Number, range(n))))


def test_slices_are_mapped_at_the_same_time_and_joined_in_order():
    met = threading.Barrier(3)

    def together(items, values):
        met.wait(timeout=60)  # raises unless three slices run at once
        return [10 * value for value in values]

    results = mapped(together, 8, batch_size=8, cores=3)
    assert [result.row for result in results] == list(range(0, 80, 10))


def test_an_error_is_raised_after_all_slices_have_ended():
    first, done = threading.Event(), []

    def one_fails(items, values):
        if 0 in items:
            first.set()
            raise ModelError("slice of 0")
        assert first.wait(timeout=60)
        done.append(items)
        return items

    with pytest.raises(ModelError, match="slice of 0"):
        mapped(one_fails, 4, batch_size=4, cores=2)
    assert done == [[2, 3]]


def test_a_mapper_that_loses_a_row_is_an_error():
    results = mapped(lambda items, values: items[1:], 2, batch_size=2, cores=2)
    assert ["0 rows for 1 items" in str(result.error) for result in results] == [True, True]


def test_nothing_is_written_after_an_error_of_the_background_writer(tmp_path, monkeypatch):
    written, put = [], MaskStoreWriter.put

    def fails_once(self, rows):
        written.append(len(rows))
        if len(written) == 2:
            raise OSError("disk full")
        put(self, rows)

    monkeypatch.setattr(MaskStoreWriter, "put", fails_once)
    with pytest.raises(OSError, match="disk full"):
        run_cheap("masks", tmp_path, make_items(tmp_path, 9), batch_size=1)
    assert written == [1, 1]
    assert RunRecord.read(tmp_path / "masks.json").status == "error"


def test_options_are_checked_and_force_of_everything_implies_rebuild():
    for bad in ({"batch_size": 0}, {"workers": -1}, {"limit": -1}, {"on_mismatch": "ask"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            RunOptions(**bad)
    assert RunOptions(force=True).on_store_mismatch == "rebuild"
    assert RunOptions(force=True, limit=3).on_store_mismatch == "refuse"
    assert RunOptions(force=True, only=["a"]).on_store_mismatch == "refuse"
