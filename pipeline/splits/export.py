"""Splits as tables that others can check: who is where, and hashes of every part."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.io import atomic_write

if TYPE_CHECKING:
    from pipeline.splits.plan import SplitPlan

COLUMNS = ("protocol", "seed", "part", "from_fraction", "image_id", "sha256")
HASH_COLUMNS = ("protocol", "seed", "fraction", "part", "images", "sha256")


def part_hash(ids: np.ndarray, hashes: dict[str, str]) -> str:
    """Return the sha256 of a part: of its lines "<image sha256>  <image_id>", sorted by id."""
    lines = "".join(f"{hashes[image_id]}  {image_id}\n" for image_id in sorted(ids))
    return hashlib.sha256(lines.encode()).hexdigest()


def export_plan(plan: SplitPlan, hashes: dict[str, str], path: Path) -> None:
    """Write `path` and, beside it, `<stem>.sha256.csv`.

    Since draws are nested, `path` has one row per protocol, seed and image: its part, and the
    smallest fraction that uses it (0 for test). The other file has the number of images and a
    hash for each protocol, seed, fraction and part.
    """
    rows: list[tuple] = []
    sums: list[tuple] = []
    for protocol in plan.protocols:
        for seed in plan.seeds:
            first: dict[str, tuple[str, float]] = {}
            for fraction in plan.fractions:
                split = plan.get(protocol, seed, fraction)
                for part in ("train", "val", "test"):
                    ids = getattr(split, part)
                    digest = part_hash(ids, hashes)
                    sums.append((protocol, seed, fraction, part, len(ids), digest))
                    for image_id in ids:
                        first.setdefault(image_id, (part, 0.0 if part == "test" else fraction))
            rows += [
                (protocol, seed, part, fraction, image_id, hashes[image_id])
                for image_id, (part, fraction) in sorted(first.items())
            ]
    _write(path, COLUMNS, rows)
    _write(path.with_name(f"{path.stem}.sha256.csv"), HASH_COLUMNS, sums)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
