"""Which rows a run has to compute, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.store.index import Index
from pipeline.store.items import WorkItem

FAILED = "failed before"


@dataclass
class Plan:
    """Items sorted by what they need.

    Args:
        todo: (item, reason) to compute; reason "" = a new row.
        copies: (item, reason) whose key is that of another item of `todo` or of a stored row.
        reused: items whose row is stored and good.
    """

    todo: list[tuple[WorkItem, str]] = field(default_factory=list)
    copies: list[tuple[WorkItem, str]] = field(default_factory=list)
    reused: list[WorkItem] = field(default_factory=list)


def make_plan(
    index: Index,
    items: Sequence[WorkItem],
    *,
    lost: Collection[int] = (),
    damaged: Collection[int] = (),
    replaced: Mapping[str, str] | None = None,
    force: bool = False,
) -> Plan:
    """Compare the items wanted with the rows of an index.

    Args:
        index: the store's index.
        items: all items wanted.
        lost, damaged: entries of the index whose data are missing or wrong.
        replaced: image_id -> reason, for rows of a store that is being replaced.
        force: compute all.
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
        elif row["key"] != item.key:
            changed = row["sha256"] != str(item.row.get("sha256", ""))
            reason = "image bytes changed" if changed else "prompt, mask or frame changed"
        elif row["status"] == "failed":
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
    needed.sort(key=lambda pair: pair[1] == FAILED)  # last, so that a limit reaches new rows first
    for item, reason in needed:
        (plan.copies if item.key in keys else plan.todo).append((item, reason))
        keys.add(item.key)
    return plan
