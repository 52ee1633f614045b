"""What a run has to do: new rows, changed rows, lost rows, and why each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.engine.items import WorkItem
from pipeline.stores.index import Index

FAILED = "failed before"


@dataclass
class Plan:
    """Items sorted by what they need.

    Args:
        todo: (item, reason) to compute; reason "" = a new row.
        copies: (item, reason) whose key another item of `todo`, or a stored row, has.
        reused: items whose row is there and good.
        failed: (item, reason) that failed before and are not retried.
    """

    todo: list[tuple[WorkItem, str]] = field(default_factory=list)
    copies: list[tuple[WorkItem, str]] = field(default_factory=list)
    reused: list[WorkItem] = field(default_factory=list)
    failed: list[tuple[WorkItem, str]] = field(default_factory=list)


def make_plan(
    index: Index,
    items: Sequence[WorkItem],
    *,
    lost: Collection[int] = (),
    damaged: Collection[int] = (),
    replaced: Mapping[str, str] | None = None,
    force: bool = False,
    retry_failed: bool = True,
) -> Plan:
    """Compare the items wanted with the rows that an index lists.

    Args:
        index: the store's index.
        items: all items wanted.
        lost, damaged: row numbers whose bytes are gone or wrong.
        replaced: image_id -> reason, of rows that a store had which this one replaces.
        force: compute all.
        retry_failed: compute failed rows again.
    """
    plan = Plan()
    keys: set[str] = set()
    needed: list[tuple[WorkItem, str]] = []
    for item in items:
        i = index.position.get(item.image_id)
        row = None if i is None else index.get(i)
        if row is None:
            reason = (replaced or {}).get(item.image_id, "")
        elif force:
            reason = "forced"
        elif row["status"] == "pending":
            reason = row["reason"]
        elif row["key"] != item.key:
            reason = _what_changed(row["sha256"], item)
        elif row["status"] == "failed":
            if not retry_failed:
                plan.failed.append((item, row["reason"]))
                continue
            reason = FAILED
        elif i in lost:
            reason = "lost from the store"
        elif i in damaged:
            reason = "damaged in the store"
        else:
            plan.reused.append(item)
            keys.add(item.key)
            continue
        needed.append((item, reason))
    needed.sort(key=lambda pair: pair[1] == FAILED)  # last, so that a limit gets past them
    for item, reason in needed:
        (plan.copies if item.key in keys else plan.todo).append((item, reason))
        keys.add(item.key)
    return plan


def _what_changed(stored_sha256: str, item: WorkItem) -> str:
    if stored_sha256 != str(item.row.get("sha256", "")):
        return "image bytes changed"
    return "prompt, mask or frame changed"
