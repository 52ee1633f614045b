"""One writer a store. The lock names its holder; a dead holder's lock is taken over at once.

Two things together decide. The kernel's `flock` on the lock file is the mutex: it ends with its
process, whatever killed it, so no timeout and no clock is involved, and two processes cannot
take over at the same moment. The JSON inside names host, pid and the process's start time, for
the message and for file systems on which `flock` does not reach other hosts.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Self

import psutil

from pipeline.errors import StoreError
from pipeline.files import writing


class StoreLock:
    """Lock file beside a store, held from `acquire` to `release`.

    Args:
        path: the lock file, e.g. cache/brain/masks.zarr.lock.
        of: what it guards, for messages.
    """

    def __init__(self, path: str | os.PathLike, of: str = "store"):
        self.path = Path(path)
        self.of = of
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, or a dead process's.

        Raises:
            StoreError: a live process holds it, or one on another host, which cannot be judged
                from here; the folder cannot be written; or its file system has no locks.
            DiskError: the disk is full.
        """
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(fd)
                os.close(fd)
                raise self._held(holder) from None
            except OSError as error:
                os.close(fd)
                raise StoreError(
                    f"this file system has no file locks: {error.strerror}",
                    path=self.path,
                    remedy="keep the cache on another one, or mount it with locks (flock)",
                ) from None
            if self._is_current(fd):
                break
            os.close(fd)  # its holder removed it between our open and our flock
        holder = _read(fd)
        if holder and not _dead(holder):
            os.close(fd)
            raise self._held(holder)
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start(os.getpid()),
        }
        try:
            with writing(self.path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(me).encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the file goes. A forked child's copy of the lock does nothing."""
        if self._fd is None:
            return
        if _read(self._fd).get("pid") == os.getpid():
            self.path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def describe(self) -> str:
        """Return a line on who holds the lock file, whether that process lives, and what to do."""
        try:
            holder = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            holder = {}
        holder = holder if isinstance(holder, dict) else {}
        if holder and not _dead(holder):
            return str(self._held(holder))
        who = f"process {holder['pid']}" if "pid" in holder else "the process"
        return f"{self.path}: {who} has ended - nothing to do: the next run takes the lock over"

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot write the lock file: {error.strerror}",
                path=self.path,
                remedy="the stage needs a writable cache folder; check its owner and the disk",
            ) from None

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _held(self, holder: dict) -> StoreError:
        host, pid = holder.get("host", "an unknown host"), holder.get("pid", "unknown")
        if host in (socket.gethostname(), "an unknown host"):
            remedy = f"wait for it to end, or stop it; one writer a {self.of}"
        else:
            remedy = f"if no run is alive on {host}, delete this file"
        return StoreError(
            f"the {self.of} is being written by process {pid} on {host}",
            path=self.path,
            remedy=remedy,
        )


def _read(fd: int) -> dict:
    """Holder named in the lock file; {} when it is empty or was cut while being written."""
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _start(pid: int) -> float:
    """Start time of a process, by a figure that setting the clock does not change where there is
    one (Linux: clock ticks after boot). psutil.NoSuchProcess when the process is gone."""
    if not psutil.LINUX:
        return psutil.Process(pid).create_time()
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise psutil.NoSuchProcess(pid) from None
    fields = text.rpartition(")")[2].split()
    if fields[0] == "Z":  # killed, and never waited for, as under a container's first process
        raise psutil.NoSuchProcess(pid)
    return float(fields[19])


def _dead(holder: dict) -> bool:
    """Whether the named process certainly does not run any more.

    A pid alone proves nothing, since pids are used again: the start time must match too.
    """
    if holder.get("host") != socket.gethostname():
        return False
    try:
        return abs(_start(int(holder["pid"])) - float(holder["started"])) > 1.0
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return True
    except psutil.AccessDenied:
        return False
