"""Grey thumbnails of every image, cached by content, so that adding ten images reads ten."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.engine.cluster import DIED, Pool, in_workers, ranges
from pipeline.engine.run import LocalExecutor, changed_files
from pipeline.errors import reason_of
from pipeline.images import read_image, reader_rules
from pipeline.io import FileHashes, atomic_write, sha256_json, writing
from pipeline.paths import Paths
from pipeline.store.items import WorkItem, table_rows

PLAIN_SIDE, STRUCTURE_SIDE = 32, 64  # pixels
READ_BATCH = 32  # images read ahead
CHUNK = 10_000  # rows of a manifest or of the cache at a time
IN_MEMORY = 64 << 20  # bytes of thumbnails
PART = 256  # images of which a worker of an engine returns the thumbnails at a time
FEATURELESS = 2.0  # grey levels; an image of less spread is blank


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails of a manifest's distinct contents (bytes and frame)."""

    plain: np.ndarray  # (contents, 32, 32) uint8; memory-mapped where there are many
    structure: np.ndarray  # (contents, 64, 64) uint8, likewise
    readable: np.ndarray  # (contents,) bool; the thumbnails of the others hold nothing
    content: np.ndarray  # (rows,) int64, the content of each manifest row
    failures: dict[str, str]  # image_id -> why its file could not be read
    read: int = 0  # number of contents read from their files this time

    def blank(self) -> np.ndarray:
        """Return (contents,) bool: whether all is of one grey, so that nothing can be compared."""
        found = np.array([pixels.std() < FEATURELESS for pixels in self.plain], bool)
        self.forget()
        return found

    def forget(self) -> None:
        """Give back the memory of what was read of the thumbnails, which stay in their files."""
        forget(self.plain)
        forget(self.structure)


def forget(array: np.ndarray) -> None:
    """Give back the memory of an array that is in a file."""
    if isinstance(array, np.memmap):
        array._mmap.madvise(mmap.MADV_DONTNEED)


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
    sides = {"plain": PLAIN_SIDE, "structure": STRUCTURE_SIDE}
    arrays = {n: _mapped((len(distinct), k, k), cache.parent) for n, k in sides.items()}
    readable = _read_cache(cache, distinct, arrays)
    made = Thumbnails(**arrays, readable=readable, content=content, failures={})
    made.forget()
    every, failures, items = table_rows(manifest.assign(key=keys, content=content)), {}, []
    for _ in range(0, len(manifest), CHUNK):  # so that few are in memory if all was read before
        rows = islice(every, CHUNK)
        part = [WorkItem(r["image_id"], r["key"], data / r["path"], r["frame"], r) for r in rows]
        failures |= changed_files([i for i in part if readable[i.row["content"]]], hashes)
        items += [i for i in part if not readable[i.row["content"]]]
    before = int(readable.sum())
    try:
        for item, found, reason in _read(items, window, hashes, pool):
            at = item.row["content"]
            if reason:
                failures[item.image_id] = reason
            else:
                made.plain[at], made.structure[at] = found
                readable[at] = True
    finally:
        hashes.save()
        read = int(readable.sum()) - before
        if read:
            with atomic_write(cache) as partial, open(partial, "wb") as file:
                names = np.where(readable, distinct, "").astype("S64")
                _write_cache(file, names, arrays)
    made.forget()
    return replace(made, failures=dict(sorted(failures.items())), read=read)


def _mapped(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """Return zeros, uint8; many are in a file without a name, which goes with the array."""
    if (size := math.prod(shape)) <= IN_MEMORY:
        return np.zeros(shape, np.uint8)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process later
            return np.memmap(file, np.uint8, "r+", shape=shape)


def _write_cache(file: BinaryIO, names: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """Write what `np.savez` does, of which no more than a part is in memory."""
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("keys.npy", "w") as member:
            np.lib.format.write_array(member, names)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                about = {"descr": "|u1", "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, about)
                for start in range(0, len(array), CHUNK):
                    member.write(array[start : start + CHUNK].tobytes())
                    forget(array)


def _read_cache(cache: Path, distinct: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Copy the thumbnails of the contents that the cache has; return which these are, bool."""
    readable = np.zeros(len(distinct), bool)
    try:
        with zipfile.ZipFile(cache) as archive:  # whose checksums are compared
            with archive.open("keys.npy") as file:
                keys = np.lib.format.read_array(file).astype(str)
            at = pd.Index(distinct).get_indexer(keys)
            for name, out in arrays.items():
                with archive.open(f"{name}.npy") as file:
                    np.lib.format.read_magic(file)
                    shape = np.lib.format.read_array_header_1_0(file)[0]
                    if shape != (len(keys), *out.shape[1:]):
                        raise ValueError("of another shape")
                    for start in range(0, len(keys), CHUNK):
                        to = at[start : start + CHUNK]
                        rows = file.read(len(to) * math.prod(shape[1:]))
                        rows = np.frombuffer(rows, np.uint8).reshape(len(to), *shape[1:])
                        out[to[to >= 0]] = rows[to >= 0]
                        forget(out)
                    file.read()  # to the end, where the checksum is
            readable[at[at >= 0]] = True
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # it counts as empty
    return readable
