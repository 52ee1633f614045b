"""Read a whole store and name the rows that are lost or damaged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.store.index import shown_columns
from pipeline.store.layout import GOOD, kind_of, read_root
from pipeline.store.reader import FeatureStore, MaskStore, StoreReader, read_text


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_store` found.

    Args:
        path: the store.
        rows: rows in its index.
        lost: ids whose shard file is missing.
        damaged: ids whose data do not match their checksum.
        failed: image_id -> reason; recorded by the stage, not a fault of the store.
        problems: what is wrong with the store as a whole, e.g. a damaged index.
    """

    path: str
    rows: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is lost or damaged; failed images do not count."""
        return not (self.lost or self.damaged or self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def summary(self) -> str:
        """Return the report as text: one line, and one per problem or row."""
        state = "ok" if self.ok else "NOT OK"
        lines = [
            f"{state}: {self.rows} rows, {len(self.lost)} lost, {len(self.damaged)} damaged, "
            f"{len(self.failed)} failed"
        ]
        lines += [f"  {problem}" for problem in self.problems]
        lines += [f"  lost: {image_id}" for image_id in self.lost]
        lines += [f"  damaged: {image_id}" for image_id in self.damaged]
        if self.lost or self.damaged:
            lines.append("  run the stage again: it computes exactly these rows")
        return "\n".join(lines)


def verify_store(path: str | PathLike) -> VerifyReport:
    """Read every row of a store and compare it with its checksum; writes nothing.

    A missing store gives a report with a problem, not an exception.
    """
    path = Path(path)
    try:
        kind = kind_of(path, read_root(path))
        store = next(c for c in (MaskStore, FeatureStore) if c.kind is kind)(path)
    except StoreError as error:
        return VerifyReport(str(path), problems=[f"{error.message}; {error.remedy}"])
    rows = store._index.rows()
    lost, damaged = store._rows.broken(rows, verify=True)
    bad = [row for row in rows if row["status"] not in GOOD]
    return VerifyReport(
        str(path),
        len(rows),
        lost=[rows[k]["image_id"] for k in sorted(lost)],
        damaged=[rows[k]["image_id"] for k in sorted(damaged)],
        failed={row["image_id"]: row["reason"] or row["status"] for row in bad},
        problems=_problems(store),
    )


def _problems(store: StoreReader) -> list[str]:
    """Check what is not a row: text features, and the columns that plain readers see."""
    import zarr

    problems = []
    if store.attrs.get("text_crc") is not None:
        try:
            read_text(store.path, store._folder, store._root)
        except StoreError as error:
            problems.append(error.message)
    shown = shown_columns(store.kind, store._index, store.attrs["rows"])
    try:
        group = zarr.open_group(store.path, mode="r", use_consolidated=True)
        same = all(np.array_equal(group[name][...], shown[name]) for name in shown)
    except Exception:  # whatever a codec makes of damaged bytes
        same = False
    if not same and read_root(store.path) == store._root:
        problems.append("the columns for xarray are lost or damaged; run the stage with --force")
    return problems
