"""Masks come back as they were given, or an error says why not."""

import numpy as np
import pytest
import xarray as xr

from benchmarks.cheap_stage import item_of, make_items, run_cheap, store_path
from pipeline.errors import StoreError
from pipeline.store import MaskRow, MaskStoreWriter, open_masks, verify_store
from pipeline.store.items import WorkItem
from tests.store.conftest import shards

NAMES = ["007", "NA", "1e5", "True", "a b.c.png", "影像/1.png", "q'\"\n[0-9]*.png", "x" * 300]


def item(name, h, w):
    row = {"sha256": name, "label": "a", "split": "train", "height": str(h), "width": str(w)}
    return WorkItem(name, f"k{name}", None, 0, row)


def write(path, masks, **row):
    """Write masks {name: array} in one go."""
    items = [item(name, *mask.shape[:2]) for name, mask in masks.items()]
    with MaskStoreWriter(path, {"model": 1}) as writer:
        writer.plan(items)
        writer.write(items, [MaskRow(name, mask, **row) for name, mask in masks.items()])


def random_mask(h, w, seed=0):
    return np.random.default_rng(seed).random((h, w)) > 0.5


@pytest.mark.promise("Masks and features are read back exactly as they were written.")
@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1), (1, 40), (33, 2)],
        [(256, 256), (257, 255)],
        [(1030, 20), (20, 2050)],  # more than one tile
    ],
)
def test_masks_of_any_size_come_back_pixel_for_pixel(tmp_path, shapes):
    masks = {f"{h}x{w}": random_mask(h, w, h) for h, w in shapes}
    write(tmp_path / "masks.zarr", masks)
    store = open_masks(tmp_path / "masks.zarr")
    for name, mask in masks.items():
        assert store[name].dtype == bool
        np.testing.assert_array_equal(store[name], mask)
    assert verify_store(tmp_path / "masks.zarr").ok


def test_an_image_larger_than_all_before_is_added_without_touching_the_others(tmp_path):
    path, small, large = tmp_path / "masks.zarr", random_mask(20, 30), random_mask(300, 1100, 1)
    write(path, {"small": small})
    write(path, {"large": large})
    store = open_masks(path)
    assert (store["small"] == small).all() and (store["large"] == large).all()
    assert xr.open_zarr(path)["mask"].shape == (2, 300, 1100)


@pytest.mark.promise("Image ids survive byte for byte.")
def test_ids_survive_byte_for_byte(tmp_path):
    masks = {name: random_mask(4, 5, k) for k, name in enumerate(NAMES)}
    write(tmp_path / "masks.zarr", masks)
    store = open_masks(tmp_path / "masks.zarr")
    assert list(store) == list(store.table().index) == sorted(NAMES)
    for name, mask in masks.items():
        np.testing.assert_array_equal(store[name], mask)


@pytest.mark.promise("A lost shard is an error that names its images; never zeros.")
def test_an_empty_mask_is_an_outcome_and_a_lost_one_never_reads_as_empty(tmp_path):
    path = tmp_path / "masks.zarr"
    write(path, {"e": np.zeros((9, 9), bool)}, status="empty")
    assert not open_masks(path)["e"].any() and open_masks(path).table().status["e"] == "empty"
    shards(path)[0].unlink()
    with pytest.raises(StoreError, match="lost data of 'e'") as caught:
        open_masks(path)["e"]
    assert "pipeline segment" in caught.value.remedy
    assert verify_store(path).lost == ["e"]


def test_an_unknown_id_and_a_failed_row_say_what_to_do(tmp_path):
    items = make_items(tmp_path, 3)
    items[1].path.write_bytes(b"broken")
    broken = item_of(items[1].path, 1, b"broken")
    record = run_cheap("masks", tmp_path, [items[0], broken], max_failed=1.0)
    assert list(record.failed) == [broken.image_id]
    store = open_masks(store_path(tmp_path, "masks"))
    with pytest.raises(StoreError, match="pipeline segment --dataset brain"):
        open_masks(tmp_path / "brain" / "masks.zarr")
    with pytest.raises(StoreError, match="no row for 'nobody'"):
        store["nobody"]
    with pytest.raises(StoreError, match="not an image"):
        store[broken.image_id]
    assert broken.image_id in store and broken.image_id in store.ids()


@pytest.mark.parametrize(
    "mask", [np.zeros((3, 3), np.uint8), np.zeros((3, 3, 1), bool), np.zeros((0, 3), bool)]
)
def test_what_is_no_mask_is_refused(tmp_path, mask):
    with pytest.raises(ValueError, match="a mask is bool"):
        write(tmp_path / "m.zarr", {"a": mask})


@pytest.mark.promise("A folder that is not a store is never emptied.")
def test_a_folder_that_is_no_store_is_never_emptied(tmp_path):
    path = tmp_path / "masks.zarr"
    path.mkdir()
    (path / "thesis.docx").write_text("years of work")
    with pytest.raises(StoreError, match="thesis"), MaskStoreWriter(path, {}):
        pass
    assert (path / "thesis.docx").read_text() == "years of work"
