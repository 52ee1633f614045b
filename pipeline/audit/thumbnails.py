"""Thumbnails of every image, cached in one file by content: adding ten images reads ten.

A record is 5 kB (32 x 32 and 64 x 64 grey pixels) and the file is mapped, not loaded, so memory
does not grow with the dataset. A record is found by its key, a hash of the image's bytes, frame
and the reading rules, and is proved by a checksum: a damaged one is read again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from PIL import Image

from pipeline.audit.descriptors import PLAIN_SIDE, STRUCTURE_SIDE
from pipeline.errors import ImageError
from pipeline.files import atomic_write, sha256_json
from pipeline.images import read_image, reader_rules

RECORD = np.dtype(
    [
        ("key", "S64"),
        ("crc", "<u4"),
        ("plain", "u1", (PLAIN_SIDE, PLAIN_SIDE)),
        ("structure", "u1", (STRUCTURE_SIDE, STRUCTURE_SIDE)),
    ]
)
CHUNK = 512  # images read ahead, and records copied, at a time
FEATURELESS = 2.0  # grey levels; an image with less spread has nothing that could be compared


@dataclass(frozen=True)
class Thumbnails:
    """The thumbnails of a manifest's distinct contents.

    Attributes:
        records: structured array of `RECORD`s, mapped from the cache file.
        positions: (contents,) int64, the record of each content; -1 = could not be read.
        content: (rows,) int64, the content of each manifest row.
        failures: reason by content, for those that could not be read.
        read: how many images were read from their files this time.
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
        """Return the contents that were read and show something, ascending int64."""
        read = np.flatnonzero(self.positions >= 0)
        shows = [
            self.plain(part).std(axis=(1, 2)) >= FEATURELESS
            for part in np.array_split(read, len(read) // CHUNK + 1)
        ]
        return read[np.concatenate(shows)]


def make_thumbnails(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shrink an image to its two grey thumbnails.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (32, 32) and (64, 64) uint8: ITU-R 601 luma, squashed to a square by Pillow's bilinear
        filter, whose support grows with the reduction, so that nothing aliases.
    """
    grey = Image.fromarray(image).convert("L")
    plain, structure = (
        np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR))
        for side in (PLAIN_SIDE, STRUCTURE_SIDE)
    )
    return plain, structure


def load_thumbnails(
    manifest: pd.DataFrame, data: Path, cache: Path, *, workers: int | None = None
) -> Thumbnails:
    """Bring the thumbnail cache up to date with a manifest and map it.

    Args:
        manifest: columns path, frame, sha256.
        data: folder of the dataset's images.
        cache: the cache file; made or replaced when images are missing from it. If the reading
            is interrupted, what was read is kept.
        workers: reader threads.

    Returns:
        thumbnails of every distinct content. An image that cannot be read, or whose bytes are
        not the manifest's, is in `failures`.
    """
    rules = sha256_json(reader_rules())
    keys = [
        sha256(f"{digest} {frame} {rules}".encode()).hexdigest().encode()
        for digest, frame in zip(manifest["sha256"], manifest["frame"], strict=True)
    ]
    # Sorted, so that contents, and all that follows, do not depend on the manifest's order.
    content, distinct = pd.factorize(np.array(keys, dtype=object), sort=True)
    first_row = pd.Series(np.arange(len(keys))).groupby(content).first().to_numpy(int)
    known = _read_cache(cache)
    found = {key: at for at, key in enumerate(known["key"]) if key and _intact(known[at])}
    missing = [c for c, key in enumerate(distinct) if key not in found]
    failures: dict[int, str] = {}
    if missing:
        rows = manifest.iloc[first_row[missing]]
        jobs = [
            (data / path, int(frame), digest)
            for path, frame, digest in zip(rows["path"], rows["frame"], rows["sha256"], strict=True)
        ]
        kept = [found[key] for key in distinct if key in found]
        new_keys = [distinct[c] for c in missing]
        reasons = _extend(cache, known, kept, new_keys, jobs, workers)
        failures = {missing[at]: reason for at, reason in reasons.items()}
        known = _read_cache(cache)
        found = {key: at for at, key in enumerate(known["key"]) if key}
    positions = np.array([found.get(key, -1) for key in distinct], dtype=np.int64)
    return Thumbnails(known, positions, content, failures, len(missing) - len(failures))


def _read_cache(cache: Path) -> np.ndarray:
    try:
        records = np.load(cache, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError, OSError):
        return np.zeros(0, RECORD)  # none yet, or cut short: it is only a cache
    return records if records.dtype == RECORD else np.zeros(0, RECORD)


def _checksum(record: np.void) -> int:
    pixels = record["plain"].tobytes() + record["structure"].tobytes()
    return zlib.crc32(bytes(record["key"]) + pixels)


def _intact(record: np.void) -> bool:
    return int(record["crc"]) == _checksum(record)


def _extend(
    cache: Path,
    known: np.ndarray,
    kept: list[int],
    keys: list[bytes],
    jobs: list[tuple[Path, int, str]],
    workers: int | None,
) -> dict[int, str]:
    """Write the kept records and the newly read ones; return the reasons of the jobs that failed.

    An image that failed leaves a record without a key, which no image ever matches.
    """
    reasons: dict[int, str] = {}
    interrupted: BaseException | None = None
    with atomic_write(cache) as partial:
        records = open_memmap(partial, mode="w+", dtype=RECORD, shape=(len(kept) + len(jobs),))
        for start in range(0, len(kept), CHUNK):
            part = kept[start : start + CHUNK]
            records[start : start + len(part)] = known[part]
        try:
            for at, result in enumerate(_read_all(jobs, workers)):
                if isinstance(result, str):
                    reasons[at] = result
                    continue
                record = records[len(kept) + at]
                record["key"] = keys[at]
                record["plain"], record["structure"] = result
                record["crc"] = _checksum(record)
        except BaseException as error:  # Ctrl-C included: keep what was read, then go on failing
            interrupted = error
        records.flush()
    if interrupted is not None:
        raise interrupted
    return reasons


def _read_all(
    jobs: list[tuple[Path, int, str]], workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray] | str]:
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(jobs), CHUNK):
            yield from pool.map(_read_one, jobs[start : start + CHUNK])


def _read_one(job: tuple[Path, int, str]) -> tuple[np.ndarray, np.ndarray] | str:
    path, frame, digest = job
    try:
        data = path.read_bytes()
        if sha256(data).hexdigest() != digest:
            return "its bytes changed since the manifest was made; run `pipeline data refresh`"
        return make_thumbnails(read_image(path, frame, data=data))
    except ImageError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
