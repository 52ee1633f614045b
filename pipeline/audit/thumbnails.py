"""Grey thumbnails of every image, cached by content, so that adding ten images reads ten.

The cache is an append-only file of 5 kB records, which is mapped and not loaded: memory does not
grow with the dataset. The key of a record is a hash of the image's bytes, frame and the reader's
rules; a checksum proves it, and a damaged record is read again.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.audit.descriptors import PLAIN_SIDE, STRUCTURE_SIDE
from pipeline.engine.executor import LocalExecutor
from pipeline.errors import PipelineError, reason_of
from pipeline.images import read_image, reader_rules
from pipeline.io import ProcessLock, sha256_json, writing
from pipeline.store.items import WorkItem

RECORD = np.dtype(
    [
        ("key", "S64"),
        ("crc", "<u4"),
        ("plain", "u1", (PLAIN_SIDE, PLAIN_SIDE)),
        ("structure", "u1", (STRUCTURE_SIDE, STRUCTURE_SIDE)),
    ]
)
READ_BATCH = 32  # images read ahead; an interruption loses at most twice as many
BATCH = 512  # contents looked at together
FEATURELESS = 2.0  # grey levels; an image of less spread shows nothing that could be compared


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails of a manifest's distinct contents (bytes and frame).

    Attributes:
        records: structured array of `RECORD`s, mapped from the cache file.
        positions: (contents,) int64, the record of each content; -1 = could not be read.
        content: (rows,) int64, the content of each manifest row.
        failures: manifest row -> why its file could not be read.
        read: number of contents read from their files this time.
    """

    records: np.ndarray
    positions: np.ndarray
    content: np.ndarray
    failures: dict[int, str] = field(default_factory=dict)
    read: int = 0

    def plain(self, contents: np.ndarray) -> np.ndarray:
        """Return the 32 x 32 thumbnails of contents, (n, 32, 32) uint8."""
        return self.records["plain"][self.positions[contents]]

    def structure(self, contents: np.ndarray) -> np.ndarray:
        """Return the 64 x 64 thumbnails of contents, (n, 64, 64) uint8."""
        return self.records["structure"][self.positions[contents]]

    def comparable(self) -> np.ndarray:
        """Return the contents that were read and are not blank, ascending int64."""
        read = np.flatnonzero(self.positions >= 0)
        shows = [
            self.plain(part).std(axis=(1, 2)) >= FEATURELESS
            for part in np.array_split(read, len(read) // BATCH + 1)
        ]
        return read[np.concatenate(shows)]


def make_thumbnails(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image to its two grey thumbnails.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (32, 32) and (64, 64) uint8: ITU-R 601 luma, resized to a square by Pillow's bilinear
        filter, which averages over the reduction and so does not alias.
    """
    grey = Image.fromarray(image).convert("L")
    plain, structure = (
        np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR))
        for side in (PLAIN_SIDE, STRUCTURE_SIDE)
    )
    return plain, structure


class ThumbnailMapper:
    """Reads an image and shrinks it, in the engine's loader threads."""

    device = ""

    def load(self, item: WorkItem) -> tuple[np.ndarray, np.ndarray]:
        """Return the two thumbnails of an image."""
        return make_thumbnails(read_image(item.path, item.frame))

    def map(self, items: Sequence[WorkItem], loaded: Sequence) -> Sequence:
        """Return what was loaded."""
        return loaded


def load_thumbnails(
    manifest: pd.DataFrame, data: Path, cache: Path, *, workers: int | None = None
) -> Thumbnails:
    """Add the thumbnails that the cache lacks, and map it.

    Args:
        manifest: columns path, frame, sha256; index 0, 1, ...
        data: folder of the dataset's images.
        cache: the cache file. What was read before an interruption is kept.
        workers: reader threads.

    Returns:
        The thumbnails of every distinct content. A row whose file cannot be read, or has other
        bytes than the manifest states, is in `failures`; another row of the same content may
        still be read.

    Raises:
        StoreError: another process is adding to the cache.
        DiskError: the cache cannot be written.
    """
    rules = sha256_json(reader_rules())
    keys = [
        sha256(f"{digest} {frame} {rules}".encode()).hexdigest().encode()
        for digest, frame in zip(manifest["sha256"], manifest["frame"], strict=True)
    ]
    # Sorted, so that contents, and all that follows, do not depend on the manifest's order.
    content, distinct = pd.factorize(np.array(keys, dtype=object), sort=True)
    with ProcessLock(cache.with_name(f"{cache.name}.lock"), guards="thumbnail cache"):
        known = _map_cache(cache)
        found = {one["key"]: at for at, one in enumerate(known) if one["crc"] == _crc(one)}
        positions = np.array([found.get(key, -1) for key in distinct])
        # Every row of a missing content, rows of one content next to each other.
        order = np.argsort(content, kind="stable")
        items = [
            WorkItem(
                image_id=str(row),
                key=keys[row].decode(),
                path=data / manifest["path"].iat[row],
                frame=int(manifest["frame"].iat[row]),
                row={"sha256": manifest["sha256"].iat[row]},
            )
            for row in order[positions[content[order]] < 0]
        ]
        failures: dict[int, str] = {}
        read = 0
        with writing(cache), open(cache, "ab") as file:
            file.truncate(len(known) * RECORD.itemsize)  # an incomplete last record is cut off
            results = LocalExecutor(READ_BATCH, workers, cores=1).imap(ThumbnailMapper, items)
            for key, same in groupby(results, key=lambda one: one.item.key):
                same = list(same)
                failed = {int(x.item.image_id): _reason(x.error) for x in same if x.error}
                failures |= failed
                if len(failed) < len(same):
                    record = np.zeros((), RECORD)
                    record["key"] = key.encode()
                    record["plain"], record["structure"] = next(x.row for x in same if not x.error)
                    # Where some rows failed the checksum is made invalid: the record serves this
                    # run, and the next one looks at all rows again.
                    record["crc"] = _crc(record) ^ bool(failed)
                    file.write(record.tobytes())
                    positions[content[int(same[0].item.image_id)]] = len(known) + read
                    read += 1
        return Thumbnails(_map_cache(cache), positions, content, failures, read)


def _reason(error: Exception) -> str:
    return error.with_remedy if isinstance(error, PipelineError) else reason_of(error)


def _map_cache(cache: Path) -> np.ndarray:
    """Map the complete records of the cache; none when it does not exist."""
    count = cache.stat().st_size // RECORD.itemsize if cache.exists() else 0
    return np.memmap(cache, RECORD, "r", shape=(count,)) if count else np.zeros(0, RECORD)


def _crc(record: np.void) -> int:
    pixels = record["plain"].tobytes() + record["structure"].tobytes()
    return zlib.crc32(bytes(record["key"]) + pixels)
