"""A finished store of either kind, and where its data lie."""

import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from benchmarks.store_stage import opened

__all__ = ["DATA", "KINDS", "ROWS", "flip", "opened", "reads", "shards", "small_shards"]

ROWS = 9
KINDS = ("masks", "features")
DATA = {"masks": "mask", "features": "image_features"}


def shards(path):
    """Return the shard files of a store in order."""
    return sorted(f for f in (path / DATA[path.stem] / "c").rglob("*") if f.is_file())


def flip(file, at):
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """(kind, folder, items, path) of a finished store."""
    items = make_items(tmp_path, ROWS)
    run_cheap(request.param, tmp_path, items)
    return request.param, tmp_path, items, store_path(tmp_path, request.param)


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of four rows."""
    monkeypatch.setattr("pipeline.store.layout.SHARD_ROWS", 4)


def reads(kind, image_id):
    """Every way to read the data of a store: name -> function of the opened store."""
    ways = {"read": lambda store: store.read(image_id)}
    if kind == "features":
        ways["image_features"] = lambda store: store.image_features("whole")
        ways["xy"] = lambda store: store.xy("whole")
        ways["to_pandas"] = lambda store: store.to_pandas()
    return ways
