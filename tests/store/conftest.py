"""A finished store of either kind, and where its data lie."""

import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from pipeline.store import open_features, open_masks

ROWS = 9
DATA = {"masks": "mask", "features": "image_features"}


def opened(path):
    return open_masks(path) if path.name == "masks.zarr" else open_features(path)


def shards(path):
    folder = path / DATA[path.stem] / "c"
    return [f for f in folder.rglob("*") if f.is_file()]


@pytest.fixture(params=["masks", "features"])
def store(request, tmp_path):
    """(kind, folder, items, path) of a finished store."""
    items = make_items(tmp_path, ROWS)
    run_cheap(request.param, tmp_path, items)
    return request.param, tmp_path, items, store_path(tmp_path, request.param)


def reads(kind, image_id):
    """Every way to read the data of a store: name -> function of the opened store."""
    ways = {"read": lambda store: store.read(image_id)}
    if kind == "features":
        ways["image_features"] = lambda store: store.image_features("whole")
        ways["xy"] = lambda store: store.xy("whole")
        ways["to_pandas"] = lambda store: store.to_pandas()
    return ways
