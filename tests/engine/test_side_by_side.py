"""Batches mapped in slices side by side: the same rows, and one bad image fails alone."""

from __future__ import annotations

import threading

import pytest

from benchmarks.cheap_stage import make_items, run_cheap
from benchmarks.store_stage import content
from pipeline.engine.parallel_map import ParallelMap


def test_slices_are_mapped_at_the_same_time_and_come_back_in_order():
    met = threading.Barrier(3)

    def together(items, values):
        met.wait(timeout=60)  # raises unless three slices are at work at once
        return [f"{item}{value}" for item, value in zip(items, values, strict=True)]

    items = list("abcdefgh")
    with ParallelMap(3, 8) as slices:
        rows = slices.map(together, items, range(8))
    assert rows == ["a0", "b1", "c2", "d3", "e4", "f5", "g6", "h7"]


@pytest.mark.parametrize(("cores", "size"), [(1, 8), (4, 1)])
def test_a_whole_batch_or_a_single_item_stays_in_the_calling_thread(cores, size):
    def here(items, values):
        assert threading.current_thread() is threading.main_thread()
        return items

    with ParallelMap(cores, 8) as slices:
        assert slices.map(here, range(size), range(size)) == list(range(size))


def test_an_error_is_raised_once_no_slice_is_at_work():
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


def test_a_mapper_that_loses_a_row_is_found_in_its_slice():
    with ParallelMap(2, 4) as slices, pytest.raises(ValueError, match="1 rows for 2 items"):
        slices.map(lambda items, values: items[:1], range(4), range(4))


@pytest.mark.parametrize("kind", ["masks", "features"])
def test_rows_do_not_depend_on_the_number_of_cores(tmp_path, kind):
    seen = []
    for cores in (1, 2, 5):
        folder = tmp_path / str(cores)
        run_cheap(kind, folder, make_items(folder, 11), batch_size=4, cores=cores)
        seen.append(content(kind, folder))
    assert seen[0] == seen[1] == seen[2]
