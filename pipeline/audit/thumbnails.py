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
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from PIL import Image

from pipeline.audit.descriptors import PLAIN_SIDE, STRUCTURE_SIDE
from pipeline.errors import PipelineError
from pipeline.images import read_image, reader_rules
from pipeline.images.read import bytes_changed, unreadable
from pipeline.io import atomic_write, open_bytes, sha256_json

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
        failures: reason by manifest row, for those whose file could not be read.
        read: how many contents were read from their files this time.
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
        thumbnails of every distinct content. A row whose file cannot be read, or whose bytes are
        not the manifest's, is in `failures`; another row of the same content may still be read.
    """
    rules = sha256_json(reader_rules())
    keys = [
        sha256(f"{digest} {frame} {rules}".encode()).hexdigest().encode()
        for digest, frame in zip(manifest["sha256"], manifest["frame"], strict=True)
    ]
    # Sorted, so that contents, and all that follows, do not depend on the manifest's order.
    content, distinct = pd.factorize(np.array(keys, dtype=object), sort=True)
    known = _read_cache(cache)
    found = {key: at for at, key in enumerate(known["key"]) if key and _intact(known[at])}
    missing = [c for c, key in enumerate(distinct) if key not in found]
    failures: dict[int, str] = {}
    if missing:
        rows = pd.Series(np.arange(len(keys))).groupby(content).apply(list)
        paths = manifest["path"].to_numpy()
        frames, digests = manifest["frame"].to_numpy(), manifest["sha256"].to_numpy()
        jobs = []
        for c in missing:
            first = rows[c][0]
            files = {row: data / paths[row] for row in rows[c]}
            jobs.append(_Job(distinct[c], files, int(frames[first]), digests[first]))
        kept = [found[key] for key in distinct if key in found]
        failures = _extend(cache, known, kept, jobs, workers)
        known = _read_cache(cache)
        found = {key: at for at, key in enumerate(known["key"]) if key}
    positions = np.array([found.get(key, -1) for key in distinct], dtype=np.int64)
    read = int((positions[missing] >= 0).sum())
    return Thumbnails(known, positions, content, failures, read)


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


@dataclass(frozen=True)
class _Job:
    """A content to read: its key, its files by manifest row, its frame and its bytes' SHA-256."""

    key: bytes
    files: dict[int, Path]
    frame: int
    digest: str


def _extend(
    cache: Path, known: np.ndarray, kept: list[int], jobs: list[_Job], workers: int | None
) -> dict[int, str]:
    """Write the kept records and the newly read ones; return the reasons of the rows that failed.

    A content that failed leaves a record without a key, which no image ever matches; one of which
    some rows failed a record without a checksum, so that the next run looks at all rows again.
    """
    failures: dict[int, str] = {}
    interrupted: BaseException | None = None
    # Written, not mapped: a disk that fills up under a mapping kills the process.
    with atomic_write(cache) as partial, open(partial, "wb") as file:
        shape = (len(kept) + len(jobs),)
        descr = {"descr": dtype_to_descr(RECORD), "fortran_order": False, "shape": shape}
        write_array_header_1_0(file, descr)
        for start in range(0, len(kept), CHUNK):
            file.write(known[kept[start : start + CHUNK]].tobytes())
        begin = file.tell()
        whole = 0
        try:
            for job, (pixels, reasons) in zip(jobs, _read_all(jobs, workers), strict=True):
                failures |= reasons
                file.write(_record(job.key, pixels, proved=not reasons).tobytes())
                whole += 1
        except OSError:
            raise  # of this file: those of the images became reasons
        except BaseException as error:  # Ctrl-C included: keep what was read, then go on failing
            interrupted = error
            file.truncate(begin + whole * RECORD.itemsize)
            file.truncate(begin + len(jobs) * RECORD.itemsize)
    if interrupted is not None:
        raise interrupted
    return failures


def _record(
    key: bytes, pixels: tuple[np.ndarray, np.ndarray] | None, *, proved: bool
) -> np.ndarray:
    record = np.zeros((), RECORD)
    if pixels is not None:
        record["key"] = key
        record["plain"], record["structure"] = pixels
        # Of another checksum, it serves this run and is no proof to the next.
        record["crc"] = _checksum(record) ^ (0 if proved else 1)
    return record


Read = tuple[tuple[np.ndarray, np.ndarray] | None, dict[int, str]]


def _read_all(jobs: list[_Job], workers: int | None) -> Iterator[Read]:
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(jobs), CHUNK):
            yield from pool.map(_read_one, jobs[start : start + CHUNK])


def _read_one(job: _Job) -> Read:
    """Return the thumbnails of a content, from its first good file, and the reasons of the rows
    that failed: of files listed with the same bytes, one may be broken and the others not."""
    pixels, reasons = None, {}
    for row, path in job.files.items():
        try:
            with open_bytes(path) as file:
                data = file.read()
            if sha256(data).hexdigest() != job.digest:
                raise bytes_changed(path)
            if pixels is None:
                pixels = make_thumbnails(read_image(path, job.frame, data=data))
        except (PipelineError, OSError) as error:
            told = unreadable(path, error) if isinstance(error, OSError) else error
            reasons[row] = " - ".join(filter(None, (told.message, told.remedy)))
    return pixels, reasons
