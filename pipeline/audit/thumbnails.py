"""Grey thumbnails of every image, cached by content, so that adding ten images reads ten."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.engine.run import LocalExecutor, changed_files
from pipeline.errors import reason_of
from pipeline.images import read_image, reader_rules
from pipeline.io import FileHashes, atomic_write, sha256_json, writing
from pipeline.paths import Paths
from pipeline.store.items import WorkItem

PLAIN_SIDE, STRUCTURE_SIDE = 32, 64  # pixels
READ_BATCH = 32  # images read ahead
IN_MEMORY = 64 << 20  # bytes of thumbnails
PART = 10_000  # rows of a manifest or of the cache at a time
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
        for mapped in (self.plain, self.structure):
            if isinstance(mapped, np.memmap):
                mapped.base.madvise(mmap.MADV_DONTNEED)


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


def load_thumbnails(
    manifest: pd.DataFrame, dataset: str, paths: Paths, window: tuple[float, float] | None = None
) -> Thumbnails:
    """Read the thumbnails that the cache lacks, and bring the cache up to date; `window` is that
    of `read_image`.

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
    found = Thumbnails(**arrays, readable=readable, content=content, failures={})
    found.forget()
    table, failures, items = manifest.assign(key=keys, content=content), {}, []
    for start in range(0, len(table), PART):  # so that few are in memory if all was read before
        rows = table[start : start + PART].to_dict("records")
        part = [WorkItem(r["image_id"], r["key"], data / r["path"], r["frame"], r) for r in rows]
        failures |= changed_files([i for i in part if readable[i.row["content"]]], hashes)
        items += [i for i in part if not readable[i.row["content"]]]
    before = int(readable.sum())
    try:
        executor = LocalExecutor(READ_BATCH, cores=1, hashes=hashes)
        for result in executor.imap(lambda: ThumbnailMapper(window), items):
            at = result.item.row["content"]
            if result.error is not None:
                failures[result.item.image_id] = reason_of(result.error)
            else:
                found.plain[at], found.structure[at] = result.row
                readable[at] = True
    finally:
        hashes.save()
        read = int(readable.sum()) - before
        if read:
            with atomic_write(cache) as partial, open(partial, "wb") as file:
                names = np.where(readable, distinct, "").astype("S64")
                np.savez(file, keys=names, **arrays)
    found.forget()
    return replace(found, failures=dict(sorted(failures.items())), read=read)


def _mapped(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """Return zeros, uint8; many are in a file without a name, which goes with the array."""
    if (size := math.prod(shape)) <= IN_MEMORY:
        return np.zeros(shape, np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process later
        return np.memmap(file, np.uint8, "r+", shape=shape)


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
                    for start in range(0, len(keys), PART):
                        to = at[start : start + PART]
                        rows = file.read(len(to) * math.prod(shape[1:]))
                        rows = np.frombuffer(rows, np.uint8).reshape(len(to), *shape[1:])
                        out[to[to >= 0]] = rows[to >= 0]
                    file.read()
            readable[at[at >= 0]] = True
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # it counts as empty
    return readable
