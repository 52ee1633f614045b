"""The executor: results in order, read-ahead bounded, slices mapped at the same time."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.cheap_stage import CheapMapper, make_items
from pipeline.engine.options import RunOptions
from pipeline.engine.run import LocalExecutor
from pipeline.errors import ConfigError, ImageError


class Number(int):
    """An item without a manifest row."""

    row: dict = {}  # noqa: RUF012


class Calls:
    """A mapper of two functions; by default an item is its own row."""

    device = ""

    def __init__(self, map=lambda items, loaded: loaded, load=lambda item: item):
        self.map, self.load = map, load


def mapped(mapper, n, *, batch_size, workers=2, cores=1):
    executor = LocalExecutor(batch_size, workers, cores)
    return executor.imap(lambda: mapper, map(Number, range(n)))


@pytest.mark.parametrize(("batch_size", "workers", "cores"), [(1, 1, 1), (3, 2, 2), (7, 4, 3)])
def test_results_keep_the_order_of_the_items_and_failures_their_place(
    tmp_path, batch_size, workers, cores
):
    items, built = make_items(tmp_path, 7), []
    items[2].path.unlink()
    items[5].path.write_bytes(b"image, but other bytes")
    executor = LocalExecutor(batch_size, workers, cores)
    results = list(executor.imap(lambda: built.append(1) or CheapMapper("masks"), items))
    assert [r.item for r in results] == items and built == [1]
    assert [isinstance(r.error, ImageError) for r in results] == [i in (2, 5) for i in range(7)]
    assert all(r.error or r.row.image_id == r.item.image_id for r in results)


def test_read_ahead_is_bounded_and_slices_are_mapped_at_the_same_time_in_order():
    loaded, met = [], threading.Barrier(3)

    def load(item):
        loaded.append(item)
        time.sleep(0.001 * (item % 3))
        return item

    def together(items, values):
        met.wait(timeout=60)  # raises unless three slices run at once
        return [10 * value for value in values]

    results = mapped(Calls(together, load), 90, batch_size=6, workers=4, cores=3)
    for n, result in enumerate(results):
        assert result.row == 10 * n and len(loaded) <= n + 4 * 6


def test_a_mapper_that_loses_a_row_is_an_error():
    results = mapped(Calls(lambda items, values: items[1:]), 2, batch_size=2)
    assert ["0 rows for 1 items" in str(result.error) for result in results] == [True, True]


def test_options_are_checked_and_force_of_everything_implies_rebuild():
    with pytest.raises(ConfigError, match="workers"):
        RunOptions(workers=0)
    assert RunOptions(force=True).on_store_mismatch == "force"
    assert RunOptions(force=True, limit=3).on_store_mismatch == "refuse"
    assert RunOptions(force=True, only=["a"]).on_store_mismatch == "refuse"
