"""Stores of layout 1 are converted, and none of their rows is computed again."""

import json

import numpy as np
import pytest
import zarr

from benchmarks.cheap_stage import CheapMapper, make_items, run_cheap, store_path
from benchmarks.store_stage import content
from pipeline.errors import StoreError
from pipeline.store import convert_store, verify_store
from pipeline.store.layout import KINDS as STORE_KINDS
from tests.store.conftest import DATA, KINDS, ROWS, opened, shards


def write_layout_1(path, old, *, without=()):
    """Write the content of a store as the earlier version did: every column an array."""
    kind = STORE_KINDS[path.stem]
    table = old.table().reset_index()
    attrs = {k: v for k, v in old.attrs.items() if k not in ("classes", "templates", "index")}
    attrs |= {"layout": 1, "index_crc": 0}
    group = zarr.create_group(path, attributes=attrs)
    for name, (dtype, _) in kind.columns.items():
        if name not in (*without, "row"):
            values = table[name].to_numpy(object if dtype == "string" else dtype)
            array = group.create_array(
                name, shape=values.shape, dtype=dtype, chunks=(16384,), dimension_names=("image",)
            )
            array[...] = values
    data = [old.read(i)[DATA[path.stem]] for i in old]
    shape = np.max([d.shape for d in data], axis=0).tolist()
    array = group.create_array(
        DATA[path.stem],
        shape=(len(data), *shape),
        dtype=data[0].dtype,
        chunks=(1, *shape),
        shards=(4, *shape),
    )
    for i, values in enumerate(data):
        array[(i, *map(slice, values.shape))] = values
    with pytest.warns():
        zarr.consolidate_metadata(path)


@pytest.fixture(params=KINDS)
def earlier(request, tmp_path):
    """(kind, items, path of a layout-1 store, content of the same store in the present layout)."""
    kind = request.param
    items = make_items(tmp_path, ROWS)
    run_cheap(kind, tmp_path / "now", items)
    now = opened(store_path(tmp_path / "now", kind))
    without = ("prompt",) if kind == "masks" else ("mask_crc",)
    write_layout_1(store_path(tmp_path, kind), now, without=without)
    return kind, items, store_path(tmp_path, kind), content(kind, tmp_path / "now")


@pytest.mark.promise("Stores of an earlier version are converted; no row is computed again.")
def test_a_converted_store_holds_the_same_rows_and_computes_none(earlier):
    kind, items, path, expected = earlier
    with pytest.raises(StoreError, match="layout 1") as caught:
        opened(path)
    assert f"pipeline convert {path}" in caught.value.remedy
    assert convert_store(path) == ROWS
    mapper = CheapMapper(kind)
    assert run_cheap(kind, path.parent, items, mapper=mapper).skipped == ROWS
    assert not mapper.mapped and verify_store(path).ok
    now = content(kind, path.parent)
    assert {k: v[0] for k, v in now.items()} == {k: v[0] for k, v in expected.items()}
    lost = {"prompt", "mask_crc"}
    for image_id in set(now) - {"text"}:
        rows = [json.loads(c[image_id][1]) for c in (now, expected)]
        assert all(rows[0][k] == rows[1][k] for k in rows[0].keys() - lost)


def test_lost_rows_of_layout_1_are_not_converted_but_computed_again(earlier):
    kind, items, path, _ = earlier
    shards(path)[1].unlink()
    assert convert_store(path) == ROWS - 4
    mapper = CheapMapper(kind)
    run_cheap(kind, path.parent, items, mapper=mapper)
    second = sorted(i.image_id for i in items)[4:8]  # the old store has its rows in this order
    assert sorted(mapper.mapped) == second and verify_store(path).ok
