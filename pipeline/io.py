"""Files: atomic writes, hashes, locks and text tables."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import filelock
import psutil

from pipeline.errors import DiskError, ManifestError, PipelineError, StoreError

REMEDIES = {
    errno.ENOSPC: "free some space and run again; finished work is kept",
    errno.EDQUOT: "free some of your quota and run again; finished work is kept",
    errno.EFBIG: "raise the file size limit (ulimit -f) and run again",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP),
        "use another file system for the cache, or mount it with locks (flock)",
    ),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "its folder must be writable; check its owner and mode",
    ),
}


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn an `OSError` of the enclosed code into a `DiskError` that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"cannot write: {os.strerror(error.errno) if error.errno else error}",
            path=path,
            remedy=REMEDIES.get(error.errno, "check the disk and run again"),
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder (and with the same suffix); on success it replaces
    `path`, so that a reader sees the old file or the new one, and on an error it is removed.

    Raises:
        DiskError: the file cannot be written; `path` is unchanged.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        partial = partial_path(path)
        try:
            yield partial
            fsync_path(partial)
            os.replace(partial, path)
            fsync_path(path.parent)
        finally:
            with suppress(OSError):  # on a read-only disk; the original error reports it
                partial.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def partial_path(path: Path) -> Path:
    """Return the temporary path at which this process writes a file or folder."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` whose process has ended."""
    stem, suffix = glob.escape(path.stem), glob.escape(path.suffix)
    for left in path.parent.glob(f".{stem}.*.partial{suffix}"):
        number = left.name.removesuffix(f".partial{path.suffix}").rpartition(".")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def atomic_write_json(path: str | os.PathLike, value: Any) -> None:
    """Write sorted, indented JSON. NaN is refused, since JSON has no such value."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def open_bytes(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file to read its bytes.

    Raises:
        PipelineError: it is a pipe, socket or device, on which a read could block forever.
        OSError: it cannot be opened.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder has its own error
        raise PipelineError(
            "is a pipe, socket or device, not a file", path=path, remedy="give a regular file"
        )
    return open(path, "rb")


def sha256_file(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    Raises:
        PipelineError, OSError: as `open_bytes`.
    """
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TextTable:
    """A CSV file as text.

    Args:
        path: the file.
        header: column names, as written in the file.
        rows: one list of fields per row, as long as the header.
        lines: the line number at which each row starts, as an editor counts it.
    """

    path: Path
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def column(self, name: str) -> list[str]:
        """Return the values of one column.

        Raises:
            ManifestError: there is no such column.
        """
        if name not in self.header:
            raise ManifestError(
                f"no column {name!r} (it has: {', '.join(self.header)})",
                path=self.path,
                remedy=f"name the column {name!r} in the first line",
            )
        k = self.header.index(name)
        return [row[k] for row in self.rows]


def read_text_csv(path: str | os.PathLike, *, delimiters: str = ",;\t") -> TextTable:
    """Read a CSV file in which every value stays text, byte for byte.

    A UTF-8 byte order mark is dropped; Unix, Windows and old Mac line ends are accepted; the
    delimiter is the one of `delimiters` that occurs most often in the first line. Empty lines are
    skipped. Quotes follow RFC 4180.

    Raises:
        ManifestError: the file is missing, not UTF-8 text or has NUL bytes, has no header, has a
            column twice, broken quotes, or rows longer or shorter than the header (the first ten
            are listed with their line).
    """
    path, remedy = Path(path), "save it as CSV in UTF-8"
    try:
        with open_bytes(path) as file:
            raw = file.read()
    except OSError as error:
        missing = error.errno == errno.ENOENT
        message = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise ManifestError(message, path=path, remedy="check the path and its mode") from None
    try:
        text = raw.decode("utf-8-sig")
        at = raw.find(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        line = raw.count(b"\n", 0, at) + 1
        message = f"line {line}: not UTF-8 text"
        raise ManifestError(message, path=path, remedy=remedy)
    first = text.splitlines()[0] if text else ""
    delimiter = max(delimiters, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        table = TextTable(path, next(reader, []))
        start = reader.line_num + 1
        for row in reader:
            if row:
                table.rows.append(row)
                table.lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        message = f"line {reader.line_num}: not valid CSV ({error})"
        raise ManifestError(message, path=path, remedy="fix the quotes") from None
    if not table.header:
        raise ManifestError("the file is empty", path=path, remedy="give a CSV with a header")
    twice = sorted({name for name in table.header if table.header.count(name) > 1})
    if twice:
        raise ManifestError(f"column {twice[0]!r} twice", path=path, remedy="keep one of them")
    uneven = [
        f"line {line}: {len(row)} fields where the header has {len(table.header)}"
        for line, row in zip(table.lines, table.rows, strict=True)
        if len(row) != len(table.header)
    ]
    if uneven:
        more = f" and {len(uneven) - 10} more" if uneven[10:] else ""
        remedy = f"quote fields that contain {delimiter!r}"
        raise ManifestError("; ".join(uneven[:10]) + more, path=path, remedy=remedy)
    return table


class ProcessLock:
    """A lock file that names the process that holds it.

    The operating system releases the lock when the process ends, however it ends. The JSON in the
    file (host, pid, command) is for messages, and for file systems on which a lock is not seen by
    other hosts.

    Args:
        path: the lock file, e.g. cache/brain/masks.zarr.lock.
        guards: what it protects, for messages.
    """

    def __init__(self, path: str | os.PathLike, guards: str = "store"):
        self.path = Path(path)
        self.guards = guards
        self._lock: filelock.BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock, also one that a process left when it was killed.

        Raises:
            StoreError: a running process holds it, or a process on another host, which cannot be
                checked from here; its file system has no locks.
            DiskError: the folder cannot be written, or the disk is full.
        """
        lock = self._take(timeout=0.2)
        me = {"host": socket.gethostname(), "pid": os.getpid(), "command": _command()}
        try:
            with writing(self.path):
                self.path.write_text(json.dumps(me), encoding="utf-8")
        except BaseException:
            self.path.unlink(missing_ok=True)
            lock.release()
            raise
        self._lock = lock

    def release(self) -> None:
        """Release the lock and remove its file. Does nothing in a forked child."""
        lock, self._lock = self._lock, None
        if lock is not None and self._holder().get("pid") == os.getpid():
            with suppress(OSError):
                self.path.unlink()
            lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def describe(self) -> str:
        """Return one line: who holds the lock, whether that process runs, and what to do."""
        holder = self._holder()
        try:
            self._take(timeout=0).release()
        except PipelineError as error:
            return str(error)
        who = f"process {holder['pid']}" if "pid" in holder else "its process"
        return f"{self.path}: {who} has ended - nothing to do: the next run takes the lock"

    def _take(self, timeout: float) -> filelock.BaseFileLock:
        lock, here = filelock.FileLock(self.path, thread_local=False), socket.gethostname()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if self._holder().get("host", here) == here:
                    lock.acquire(timeout=timeout, poll_interval=0.02)
                    return lock
            except filelock.Timeout:
                pass
        holder = self._holder()
        host = holder.get("host", here)
        remedy = f"wait for it to end, or stop it; a {self.guards} has one writer at a time"
        if host != here:
            remedy = f"if no run is alive on {host}, delete this file"
        raise StoreError(
            f"the {self.guards} is being written by process {holder.get('pid', 'unknown')} on "
            f"{host} ({holder.get('command', '')})",
            path=self.path,
            remedy=remedy,
        )

    def _holder(self) -> dict[str, Any]:
        """Return the holder named in the file; {} when there is none, or it is incomplete."""
        try:
            holder = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}


def _command() -> str:
    """Return the command line of this process, short and on one line."""
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]] if sys.argv else []
    return " ".join(" ".join(words).encode("utf-8", "replace").decode().split())[:200]


def manifest_lock(manifest: Path) -> ProcessLock:
    """Return the lock to hold while a manifest is read, changed and written."""
    return ProcessLock(manifest.with_name(f".{manifest.name}.lock"), guards="manifest")


def lock_notes(root: Path) -> list[str]:
    """Return one line for each lock in a project folder; [] when nothing is locked.

    Locks of stores and manifests, and DVC's repository lock, end with their process. DVC drops an
    entry of .dvc/tmp/rwlock by itself, unless its pid is in use again or the file is incomplete.
    """
    locks = [ProcessLock(path) for path in sorted(root.glob("cache/**/*.lock"))]
    locks += [ProcessLock(p, "manifest") for p in sorted(root.glob("data_manifests/.*.csv.lock"))]
    notes, dvc = [lock.describe() for lock in locks], root / ".dvc" / "tmp" / "rwlock"
    try:
        table = json.loads(dvc.read_text(encoding="utf-8"))
        readers = [entry for several in table.get("read", {}).values() for entry in several]
        entries = [*table.get("write", {}).values(), *readers]
        if not any(psutil.pid_exists(int(entry["pid"])) for entry in entries):
            return notes
    except FileNotFoundError:
        return notes
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return [*notes, f"{dvc}: used by dvc - delete this file when no dvc command is running"]
