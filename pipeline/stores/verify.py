"""Walk a store and say what is lost or damaged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.stores import index as idx
from pipeline.stores.kinds import RowReader, kind_of
from pipeline.stores.layout import read_root


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_store` found.

    Args:
        path: the store.
        rows: rows that its index lists.
        lost: ids whose shard file is missing.
        damaged: ids whose bytes do not match their checksum.
        failed: image_id -> reason; recorded by the stage, no fault of the store.
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
        """Nothing is lost or damaged (images that failed count as known, not as lost)."""
        return not (self.lost or self.damaged or self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"ok": self.ok, **asdict(self)}

    def summary(self) -> str:
        """Return the report in words, one line a fault."""
        lines = [f"{'ok' if self.ok else 'NOT OK'}: {self.rows} rows, {len(self.lost)} lost, "
                 f"{len(self.damaged)} damaged, {len(self.failed)} failed"]  # fmt: skip
        lines += [f"  {problem}" for problem in self.problems]
        lines += [f"  lost: {image_id}" for image_id in self.lost]
        lines += [f"  damaged: {image_id}" for image_id in self.damaged]
        if self.lost or self.damaged:
            lines.append("  run the stage again: it computes exactly these rows")
        return "\n".join(lines)


def verify_store(path: str | PathLike) -> VerifyReport:
    """Read every row of a store and compare it with its checksum; writes nothing.

    A missing store is a report with a problem, not an exception.
    """
    path = Path(path)
    try:
        kind = kind_of(path, read_root(path))
        committed = idx.load(path, kind.columns)
    except StoreError as error:
        return VerifyReport(str(path), problems=[f"{error.message}; {error.remedy}"])
    index = committed.index
    ids = index.rows["image_id"]
    try:
        reader = RowReader(path, kind, committed.root["consolidated_metadata"]["metadata"])
    except Exception as error:
        return VerifyReport(str(path), len(index), problems=[f"metadata damaged: {error}"])
    lost = set(reader.lost_rows(index))
    damaged = set(reader.damaged(index)) - lost
    if (lost or damaged) and read_root(path) != committed.root:
        # A writer was at work: what it wrote meanwhile is no longer what this index says.
        committed = idx.load(path, kind.columns)
        reader = RowReader(path, kind, committed.root["consolidated_metadata"]["metadata"])
        rows = {i: committed.index.position.get(ids[i]) for i in lost | damaged}
        bad = {i for i, k in rows.items() if _is_bad(reader, committed.index, k)}
        lost, damaged = lost & bad, damaged & bad
    failed = {i: s for i, s in enumerate(index.rows["status"]) if s not in idx.GOOD}
    problems = []
    if kind.name == "features":
        from pipeline.stores.text import text_problem

        problems = [p for p in [text_problem(path, committed.root)] if p]
    return VerifyReport(
        str(path),
        len(index),
        lost=[ids[i] for i in sorted(lost)],
        damaged=[ids[i] for i in sorted(damaged)],
        failed={ids[i]: index.rows["reason"][i] or status for i, status in failed.items()},
        problems=problems,
    )


def _is_bad(reader: RowReader, index: idx.Index, i: int | None) -> bool:
    """Whether row i is listed as good and does not read back as what was written."""
    if i is None:
        return False  # removed meanwhile
    row = index.get(i)
    return row["status"] in idx.GOOD and reader.checked(i, row) is None
