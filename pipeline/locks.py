"""Locks that lie in a project folder: who holds each, whether that process lives, what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import psutil

from pipeline.paths import Paths


def lock_notes(paths: Paths) -> list[str]:
    """Return a line for each lock of the stores and of DVC; [] when nothing is locked.

    The stores' locks and DVC's lock of the repository end with their process. What can outlive
    a killed `dvc repro` is its entry in .dvc/tmp/rwlock: DVC drops it by itself unless the
    process number is in use again, or the file was cut while being written.
    """
    from pipeline.stores.lock import StoreLock

    root = Path(paths.root)
    stores = [StoreLock(path).describe() for path in sorted(root.glob("cache/*/*.lock"))]
    return [*stores, *_dvc_notes(root / ".dvc" / "tmp" / "rwlock")]


def _dvc_notes(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        writers = _holders(table.get("write", {}).values())
        readers = _holders(e for several in table.get("read", {}).values() for e in several)
    except (ValueError, KeyError, TypeError, AttributeError):
        return [
            f"{path}: cut while being written, so that DVC cannot read it - "
            "delete this file when no dvc command is running"
        ]
    # DVC leaves what a killed reader held; it is in nobody's way.
    holders = sorted(writers | {h for h in readers if psutil.pid_exists(h[0])})
    return [f"{path}: {_judge(pid, command)}" for pid, command in holders]


def _holders(entries: Iterable[dict]) -> set[tuple[int, str]]:
    return {(int(entry["pid"]), str(entry["cmd"])) for entry in entries}


def _judge(pid: int, command: str) -> str:
    """Say whether the process that an entry names still is that command."""
    who = f"process {pid} ({command})"
    try:
        running = " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        if not psutil.pid_exists(pid):
            return f"{who} has ended - nothing to do: the next `dvc repro` drops its entry"
        running = ""  # a zombie
    except psutil.AccessDenied:
        return f"{who} belongs to another user - ask them, or wait for it to end"
    arguments = command.partition(" ")[2]
    if "dvc" in running and running.endswith(arguments):
        return f"{who} is running - wait for it to end, or stop it"
    return (
        f"{who} has ended, but its number is in use, so that DVC takes it for alive - "
        "delete this file when no dvc command is running"
    )
