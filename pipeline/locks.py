"""Locks that lie in a project folder: who holds each, whether that process lives, what to do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.files import writing
from pipeline.paths import Paths


@contextmanager
def manifest_lock(manifest: Path) -> Iterator[None]:
    """Hold a manifest from the reading to the writing of it, so that no change of another is lost.

    Raises:
        StoreError: another process is at it; it is named, with the remedy.
        DiskError: the folder cannot be written.
    """
    from pipeline.stores.lock import StoreLock

    with writing(manifest):
        manifest.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(manifest.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with StoreLock(manifest.with_name(f".{manifest.name}.lock"), of="manifest"):
        yield


def lock_notes(paths: Paths) -> list[str]:
    """Return a line for each lock of stores, manifests and DVC; [] when nothing is locked.

    Locks of stores and manifests, and DVC's lock of the repository, end with their process. What
    can outlive a killed `dvc repro` is its entry in .dvc/tmp/rwlock: DVC drops it by itself unless
    the process number is in use again, or the file was cut while being written.
    """
    from pipeline.stores.lock import StoreLock

    root = Path(paths.root)
    stores = [StoreLock(path).describe() for path in sorted(root.glob("cache/*/*.lock"))]
    manifests = [
        StoreLock(path, of="manifest").describe()
        for path in sorted((root / "data_manifests").glob(".*.csv.lock"))
    ]
    return [*stores, *manifests, *_dvc_notes(root / ".dvc" / "tmp" / "rwlock")]


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
