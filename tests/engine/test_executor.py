"""The executor: results in order, read-ahead bounded, slices mapped at the same time."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.cheap_stage import CheapMapper, make_items
from pipeline.engine import LocalExecutor, RunOptions
from pipeline.engine.background_writer import BackgroundWriter
from pipeline.engine.executor import load_in_order
from pipeline.engine.parallel_map import ParallelMap
from pipeline.errors import ConfigError, ImageError, ModelError


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


def test_slices_are_mapped_at_the_same_time_and_joined_in_order():
    met = threading.Barrier(3)

    def together(items, values):
        met.wait(timeout=60)  # raises unless three slices run at once
        return [f"{item}{value}" for item, value in zip(items, values, strict=True)]

    with ParallelMap(3, 8) as slices:
        rows = slices.map(together, list("abcdefgh"), range(8))
    assert rows == ["a0", "b1", "c2", "d3", "e4", "f5", "g6", "h7"]


def test_an_error_is_raised_after_all_slices_have_ended():
    first, done = threading.Event(), []

    def one_fails(items, values):
        if 0 in items:
            first.set()
            raise RuntimeError("slice of 0")
        assert first.wait(timeout=60)
        done.append(items)
        return items

    with ParallelMap(2, 4) as slices, pytest.raises(RuntimeError, match="slice of 0"):
        slices.map(one_fails, range(4), range(4))
    assert done == [range(2, 4)]


def test_a_mapper_that_loses_a_row_is_an_error():
    with ParallelMap(2, 4) as slices, pytest.raises(ValueError, match="1 rows for 2 items"):
        slices.map(lambda items, values: items[:1], range(4), range(4))


def test_nothing_is_written_after_an_error_of_the_background_writer():
    written = []

    def write(value):
        if value == 1:
            raise OSError("disk full")
        written.append(value)

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(max_pending=1) as background:
        for value in range(9):
            background.submit(write, value)
        background.call(write, 9)
    assert written == [0]


def test_options_are_checked_and_force_of_everything_implies_rebuild():
    for bad in ({"batch_size": 0}, {"workers": -1}, {"precision": "fp8"}, {"on_mismatch": "ask"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            RunOptions(**bad)
    assert RunOptions(force=True).on_store_mismatch == "rebuild"
    assert RunOptions(force=True, limit=3).on_store_mismatch == "refuse"
    assert RunOptions(force=True, only=["a"]).on_store_mismatch == "refuse"
