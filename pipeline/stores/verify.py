"""Walk a store and say what is lost or damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike


@dataclass(frozen=True)
class VerifyReport:
    """ok = nothing lost or damaged. lost: rows whose shard file is missing; damaged: rows whose
    bytes do not match their checksum; failed: image_id -> reason (recorded, not a fault)."""

    path: str
    rows: int
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.damaged or self.problems)


def verify_store(path: str | PathLike) -> VerifyReport:
    raise NotImplementedError
