"""A stage without a model: rows that are a fixed function of small files.

It drives the real engine and the real stores where only their behaviour matters: kills, locks,
full disks, memory. Runs as `python benchmarks/cheap_stage.py masks FOLDER --rows 40`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import LocalExecutor, run_items
from pipeline.errors import ImageError
from pipeline.store import FeatureRow, FeatureStoreWriter, MaskRow, MaskStoreWriter
from pipeline.store.items import WorkItem

VIEWS, DIM = ("whole", "masked"), 24
CLASSES, TEMPLATES = ("cat", "dog"), ("a {}.", "the {}.")


def make_items(folder: Path, rows: int, size: int = 24) -> list[WorkItem]:
    """Write `rows` files (once) and return their items; every seventh is wider than the rest."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(rows):
        path = images / f"{i}.bin"
        content = f"image {i}".encode()
        if not path.exists():
            path.write_bytes(content)
        items.append(item_of(path, i, content, size))
    return items


def item_of(path: Path, i: int, content: bytes, size: int = 24) -> WorkItem:
    """Return the item of one file."""
    digest = hashlib.sha256(content).hexdigest()
    row = {
        "sha256": digest,
        "label": CLASSES[i % 2],
        "split": "test" if i % 3 == 0 else "train",
        "height": str(size),
        "width": str(size + (8 if i % 7 == 0 else 0)),
    }
    return WorkItem(f"{row['split']}/{i}.bin", digest, path, 0, row)


def manifest_of(items: Sequence[WorkItem]) -> pd.DataFrame:
    """Return what a manifest says of these items."""
    return pd.DataFrame(
        {
            "image_id": [i.image_id for i in items],
            "label": [i.row["label"] for i in items],
            "split": [i.row["split"] for i in items],
        }
    )


class CheapMapper:
    """Rows from a generator seeded with the bytes of the file.

    Args:
        kind: "masks" or "features".
        seconds: time a row takes in the "model".
        load_seconds: time a row takes to load.
        tag: part of the identity.
    """

    device = ""

    def __init__(
        self, kind: str, *, seconds: float = 0.0, load_seconds: float = 0.0, tag: Any = "a"
    ):
        self.kind, self.seconds, self.load_seconds = kind, seconds, load_seconds
        self.identity = {"model": {"name": "cheap", "tag": tag}, "kind": kind}
        self.loaded: list[str] = []
        self.mapped: list[str] = []

    def load(self, item: WorkItem) -> int:
        """Read the file; an empty or broken one is an error, as a real reader's would be."""
        time.sleep(self.load_seconds)
        content = item.path.read_bytes()
        if not content.startswith(b"image"):
            raise ImageError("not an image", path=item.path, remedy="replace it")
        self.loaded.append(item.image_id)
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")

    def map(self, items: Sequence[WorkItem], loaded: Sequence[int]) -> list[Any]:
        """Return one row an item."""
        time.sleep(self.seconds * len(items))
        self.mapped += [item.image_id for item in items]
        rows = zip(items, loaded, strict=True)
        return [self._row(item, np.random.default_rng(seed)) for item, seed in rows]

    def _row(self, item: WorkItem, rng: np.random.Generator) -> MaskRow | FeatureRow:
        if self.kind == "features":
            features = rng.normal(size=(len(VIEWS), DIM)).astype(np.float32)
            return FeatureRow(item.image_id, features, mask_status="ok")
        mask = rng.random((int(item.row["height"]), int(item.row["width"]))) > 0.5
        return MaskRow(
            item.image_id,
            mask,
            prompt="none",
            predicted_iou=float(rng.random()),
            stability=float(rng.random()),
        )


def store_path(folder: Path, kind: str) -> Path:
    """Return the store's folder."""
    return folder / f"{kind}.zarr"


def make_writer(kind: str, folder: Path, identity: dict, **options: Any):
    """Return the writer of a kind."""
    path = store_path(folder, kind)
    if kind == "masks":
        return MaskStoreWriter(path, identity, **options)
    return FeatureStoreWriter(path, identity, views=VIEWS, dim=DIM, **options)


def run_cheap(
    kind: str,
    folder: Path,
    items: Sequence[WorkItem],
    *,
    mapper: CheapMapper | None = None,
    on_mismatch: str = "refuse",
    commit_seconds: float = 5.0,
    cores: int = 1,
    max_failed: float = 0.0,
    parameters: dict[str, Any] | None = None,
    **options: Any,
) -> RunRecord:
    """Run the stage once; `options` are those of `RunOptions`."""
    mapper = mapper or CheapMapper(kind)
    writer = make_writer(
        kind, folder, mapper.identity, on_mismatch=on_mismatch, commit_seconds=commit_seconds
    )
    run = RunOptions(**{"progress": False, "workers": 2, "batch_size": 4, **options})
    with writer:
        writer.sync_manifest(manifest_of(items))
        if kind == "features":
            text = {"templates": list(TEMPLATES)}
            if writer.text_identity != text:
                T = np.random.default_rng(0).normal(size=(2, 2, DIM)).astype(np.float32)
                writer.set_text(T, classes=CLASSES, templates=TEMPLATES, identity=text)
        return run_items(
            RunRecord(kind, parameters=parameters or {}),
            folder / f"{kind}.json",
            items,
            lambda: mapper,
            writer,
            run,
            max_failed=max_failed,
            executor=LocalExecutor(run.batch_size, run.workers, cores),
        )


def main(arguments: Sequence[str]) -> int:
    """Run the stage from a shell, as the tests' child process."""
    from pipeline.cli.common import guarded

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["masks", "features"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--commit-seconds", type=float, default=5.0)
    parser.add_argument("--max-failed", type=float, default=0.0)
    a = parser.parse_args(arguments)

    def run(**_: Any) -> None:
        mapper = CheapMapper(a.kind, seconds=a.seconds, load_seconds=a.load_seconds)
        record = run_cheap(
            a.kind,
            a.folder,
            make_items(a.folder, a.rows, a.size),
            mapper=mapper,
            commit_seconds=a.commit_seconds,
            max_failed=a.max_failed,
            progress=True,
        )
        print(record.summary())

    guarded(run)
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
