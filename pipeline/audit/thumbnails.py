"""Grey thumbnails of every image, cached by content, so that adding ten images reads ten."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.engine.cluster import DIED, Pool, in_workers, ranges
from pipeline.engine.run import LocalExecutor, changed_files
from pipeline.errors import reason_of
from pipeline.images import read_image, reader_rules
from pipeline.io import FileHashes, atomic_write, sha256_json
from pipeline.paths import Paths
from pipeline.store.items import WorkItem

PLAIN_SIDE, STRUCTURE_SIDE = 32, 64  # pixels
READ_BATCH = 32  # images read ahead
PART = 256  # images of which a worker of an engine returns the thumbnails at a time
FEATURELESS = 2.0  # grey levels; an image of less spread is blank


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails of a manifest's distinct contents (bytes and frame)."""

    plain: np.ndarray  # (contents, 32, 32) uint8
    structure: np.ndarray  # (contents, 64, 64) uint8
    readable: np.ndarray  # (contents,) bool; the thumbnails of the others hold nothing
    content: np.ndarray  # (rows,) int64, the content of each manifest row
    failures: dict[str, str]  # image_id -> why its file could not be read
    read: int = 0  # number of contents read from their files this time

    def blank(self) -> np.ndarray:
        """Return (contents,) bool: whether all is of one grey, so that nothing can be compared."""
        return np.array([pixels.std() < FEATURELESS for pixels in self.plain], bool)


def make_thumbnails(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image (h, w, 3) uint8 to its grey thumbnails, (32, 32) and (64, 64) uint8.

    ITU-R 601 luma, resized to a square by Pillow's bilinear filter, which averages over the
    reduction and so does not alias.
    """
    grey = Image.fromarray(image).convert("L")
    sizes, how = ((PLAIN_SIDE,) * 2, (STRUCTURE_SIDE,) * 2), Image.Resampling.BILINEAR
    return tuple(np.asarray(grey.resize(size, how)) for size in sizes)


class ThumbnailMapper:
    device = ""  # the engine's loader threads do all

    def __init__(self, window: tuple[float, float] | None):
        self.window = window

    def load(self, item: WorkItem) -> tuple[np.ndarray, np.ndarray]:
        return make_thumbnails(read_image(item.path, item.frame, window=self.window))

    def map(self, items: Sequence[WorkItem], loaded: Sequence) -> Sequence:
        return loaded


@dataclass(frozen=True)
class ThumbnailTask:
    """A `Task` of an engine that reads images; returns the thumbnails of each, and why not."""

    window: tuple[float, float] | None

    def begin(self) -> None:
        pass

    def run(self, kept: None, items: Sequence[WorkItem]) -> list[tuple[Any, str]]:
        found = LocalExecutor(READ_BATCH, cores=1).imap(lambda: ThumbnailMapper(self.window), items)
        return [(one.row, reason_of(one.error) if one.error else "") for one in found]


def _read(
    items: Sequence[WorkItem],
    window: tuple[float, float] | None,
    hashes: FileHashes,
    pool: Pool | None,
) -> Iterator[tuple[WorkItem, Any, str]]:
    """Yield each item with its thumbnails, or why there are none."""
    if pool is None:
        executor = LocalExecutor(READ_BATCH, cores=1, hashes=hashes)
        for item, row, error in executor.imap(lambda: ThumbnailMapper(window), items):
            yield item, row, reason_of(error) if error else ""
        return
    parts = ranges(items, pool, READ_BATCH, PART)
    for part, found in in_workers(pool, ThumbnailTask(window), parts):
        for item, (row, reason) in zip(part, found or [(None, DIED)] * len(part), strict=True):
            yield item, row, reason


def load_thumbnails(
    manifest: pd.DataFrame,
    dataset: str,
    paths: Paths,
    window: tuple[float, float] | None = None,
    pool: Pool | None = None,
) -> Thumbnails:
    """Read the thumbnails that the cache lacks, and bring the cache up to date; `window` is that
    of `read_image`. Images are read in the workers of `pool`, if there is one.

    A damaged cache counts as empty. What was read before an interruption is kept. An image whose
    file cannot be read, or has other bytes than the manifest states, is in `failures`, also where
    its thumbnail is cached; another of the same content may be read. Raises DiskError where the
    cache cannot be written.
    """
    data, cache = paths.data(dataset), paths.thumbnails(dataset)
    rules, hashes = sha256_json(reader_rules(window)), FileHashes(paths.hashes(dataset))
    keys = [
        sha256(f"{digest} {frame} {rules}".encode()).hexdigest()
        for digest, frame in zip(manifest["sha256"], manifest["frame"], strict=True)
    ]
    # Sorted, so that contents, and all that follows, do not depend on the manifest's order.
    content, distinct = pd.factorize(np.array(keys, dtype=object), sort=True)
    plain = np.zeros((len(distinct), PLAIN_SIDE, PLAIN_SIDE), np.uint8)
    structure = np.zeros((len(distinct), STRUCTURE_SIDE, STRUCTURE_SIDE), np.uint8)
    known, *cached = _read_cache(cache)
    at = pd.Index(known).get_indexer(distinct)
    readable = at >= 0
    if readable.any():
        plain[readable], structure[readable] = (pixels[at[readable]] for pixels in cached)
    rows = manifest.assign(key=keys, content=content).to_dict("records")
    items = [WorkItem(r["image_id"], r["key"], data / r["path"], r["frame"], r) for r in rows]
    failures = changed_files([i for i in items if readable[i.row["content"]]], hashes)
    items = [i for i in items if not readable[i.row["content"]]]
    before = int(readable.sum())
    try:
        for item, found, reason in _read(items, window, hashes, pool):
            at = item.row["content"]
            if reason:
                failures[item.image_id] = reason
            else:
                plain[at], structure[at] = found
                readable[at] = True
    finally:
        hashes.save()
        read = int(readable.sum()) - before
        if read:
            with atomic_write(cache) as partial, open(partial, "wb") as file:
                names = distinct[readable].astype("S64")
                np.savez(file, keys=names, plain=plain[readable], structure=structure[readable])
    return Thumbnails(plain, structure, readable, content, dict(sorted(failures.items())), read)


def _read_cache(cache: Path) -> tuple[np.ndarray, ...]:
    try:
        with np.load(cache) as stored:  # a zip, whose checksums are compared
            return stored["keys"].astype(str), stored["plain"], stored["structure"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return (np.zeros(0, str),)
