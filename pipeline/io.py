"""Files: atomic writes, hashes, locks and text tables."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from pipeline import remote
from pipeline.errors import DiskError, ManifestError, PipelineError, RemoteError, StoreError

if TYPE_CHECKING:
    import pandas as pd
    from filelock import BaseFileLock

REMEDIES = {
    "ENOSPC EDQUOT EFBIG": "free some space (or quota, ulimit -f) and run again; work done is kept",
    "ENOLCK ENOSYS EOPNOTSUPP ENOTSUP": "use another file system for the cache, with locks (flock)",
    "EROFS EACCES EPERM": "its folder must be writable; check its owner and mode",
}


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn an `OSError` of the enclosed code into a `DiskError` that names `path` and a remedy."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno, "?")
        remedies = [text for names, text in REMEDIES.items() if name in names.split()]
        message = f"cannot write: {os.strerror(error.errno) if error.errno else error}"
        remedy = remedies[0] if remedies else "check the disk and run again"
        raise DiskError(message, path=path, remedy=remedy) from error


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder (and with the same suffix), which replaces `path`
    when the block ends without an error: a reader sees the old file or the new one.

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
        import psutil  # on first use, for the start of DVC's stage `files`

        if number.isdigit() and not psutil.pid_exists(int(number)):
            remove = shutil.rmtree if left.is_dir() else os.unlink
            with suppress(OSError):
                remove(left)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text with Unix line ends."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def atomic_write_json(path: str | os.PathLike, value: Any) -> None:
    """Write sorted, indented JSON. NaN is refused, since JSON has no such value."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV with numbers of six digits and Unix line ends."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def open_bytes(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file, or what is at a URL, to read its bytes; OSError where it cannot be
    opened.

    Raises:
        PipelineError: it is a pipe, socket or device, on which a read could block forever; or a
            RemoteError of the URL.
    """
    if remote.is_url(path):
        return io.BytesIO(remote.take(remote.as_path(path)))
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder has its own error
        message = "is a pipe, socket or device, not a file"
        raise PipelineError(message, path=path, remedy="give a regular file")
    return open(path, "rb")


def sha256_file(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes; errors as for `open_bytes`."""
    with open_bytes(path) as file:
        if remote.is_url(path):
            remote.keep(path, file.getvalue())
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileHashes:
    """SHA-256 of files, remembered from run to run by inode, size and times; of URLs by size,
    time and tag (ETag), for which each folder is listed once.

    A file is read again only where one of these has changed: in a copied folder that is once, and
    since the bytes decide, no alarm. What was changed in the two seconds before it was hashed is
    not kept, since one more change could leave its times as they are. Safe in threads.

    Args:
        path: a JSON file of what is remembered; damaged or missing, all files are read. None:
            nothing is kept.
    """

    def __init__(self, path: Path | None = None):
        self.path, self._new = path, False
        self._known: dict[str, bytes] = {}  # version and digest, as JSON, which takes less memory
        self._young: set[str] = set()
        self._listed, self._listing = cache(remote.versions), threading.Lock()
        if path is not None:
            with suppress(OSError, ValueError, TypeError):
                known = dict(json.loads(path.read_bytes()))
                self._known = {name: json.dumps(of).encode() for name, of in known.items()}

    def __call__(self, file: str | os.PathLike) -> str:
        """Return the hexadecimal SHA-256 of a file's bytes; errors as for `open_bytes`."""
        version = self.version(file)
        *known, digest = json.loads(self._known.get(_full_name(file), '[""]'))
        return digest if known == version[:-1] else self.learn(file, version, sha256_file(file))

    def of_read(self, file: str | os.PathLike) -> str:
        """Return the SHA-256 of the bytes that are read next, of a URL by reading them now: they
        are kept for who reads them, and cannot have changed in between."""
        if not remote.is_url(file):
            return self(file)
        if self.path is None:  # no need of its version
            return sha256_file(file)
        return self.learn(file, self.version(file), sha256_file(file))

    def version(self, file: str | os.PathLike) -> list[int]:
        """Return inode, size and times of a file, and whether it has just been changed."""
        if remote.is_url(file):
            return self._listed_version(remote.as_path(file))
        status = os.stat(file)
        times = status.st_mtime_ns, status.st_ctime_ns
        return [status.st_ino, status.st_size, *times, time.time_ns() - max(times) < 2e9]

    def learn(self, file: str | os.PathLike, version: list[int], digest: str) -> str:
        """Remember, and return, the SHA-256 of bytes that were read after `version` was asked
        for; `file` may be another path of the same file."""
        *now, young = version
        name = _full_name(file)
        (self._young.add if young else self._young.discard)(name)
        self._known[name], self._new = json.dumps([*now, digest]).encode(), True
        return digest

    def _listed_version(self, file: Path) -> list:
        with self._listing:  # of threads that ask for the same folder one lists it
            versions = self._listed(file.parent)
        if file.name not in versions:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
        return [*versions[file.name], False]  # a tag changes with the bytes

    def save(self) -> None:
        """Write what is remembered. Raises DiskError."""
        if self.path is not None and self._new:
            kept = (item for item in self._known.items() if item[0] not in self._young)
            text = ", ".join(f"{json.dumps(name)}: {of.decode()}" for name, of in kept)
            atomic_write_text(self.path, f"{{{text}}}")
            self._new = False


def _full_name(file: str | os.PathLike) -> str:
    return str(file) if remote.is_url(file) else os.path.abspath(file)


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class TextTable(NamedTuple):
    """A CSV file as text: its path, the column names as written, one list of fields per row, and
    the line number at which each row starts, as an editor counts it."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """Return the values of one column; ManifestError where there is none of this name."""
        if name not in self.header:
            message = f"no column {name!r} (it has: {', '.join(self.header)})"
            remedy = f"name the column {name!r} in the first line"
            raise ManifestError(message, path=self.path, remedy=remedy)
        k = self.header.index(name)
        return [row[k] for row in self.rows]


def read_text_csv(path: str | os.PathLike) -> TextTable:
    """Read a CSV file in which every value stays text, byte for byte.

    A UTF-8 byte order mark is dropped; Unix, Windows and old Mac line ends are accepted; the
    delimiter is that of comma, semicolon and tab which gives the header most fields, or the one
    that Excel's first line `sep=;` states. Lines without a value and delimiters at the end of
    lines are skipped. Quotes follow RFC 4180.

    Raises:
        ManifestError: the file is missing, is not UTF-8 text, or has no header, a column twice,
            broken quotes, or rows of another length than the header (ten are listed).
    """
    path = remote.as_path(path)
    remedy = "save it as CSV in UTF-8, with a header and no broken quotes"
    try:
        with open_bytes(path) as file:
            raw = file.read()
        if (nul := raw.find(b"\0")) >= 0:  # UTF-16, say
            raise UnicodeDecodeError("utf-8", raw, nul, nul + 1, "NUL")
        text = raw.decode("utf-8-sig")
        lines = io.StringIO(text, newline="")
        first = (text.splitlines() or [""])[0]
        if stated := re.fullmatch(r'"?sep=([,;\t])"?[,;\t]*', first, re.IGNORECASE):
            next(lines)
        before = int(stated is not None)
        fields = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in ",;\t"}
        delimiter = stated[1] if stated else max(fields, key=fields.__getitem__)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        table = TextTable(path, _filled(next(reader, [])), [], [])
        start = reader.line_num + 1 + before
        for row in reader:
            if any(row) or len(row) == 1:
                table.rows.append(_filled(row, len(table.header)))
                table.lines.append(start)
            start = reader.line_num + 1 + before
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        message = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise ManifestError(message, path=path, remedy="check the path and its mode") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"line {line}: not UTF-8 text", path=path, remedy=remedy) from None
    except csv.Error as error:
        message = f"line {reader.line_num}: not valid CSV ({error})"
        raise ManifestError(message, path=path, remedy=remedy) from None
    wrong = [f"column {n!r} twice" for n, count in Counter(table.header).items() if count > 1]
    wrong += [] if table.header else ["the file is empty"]
    wrong += [
        f"line {line}: {len(row)} fields where the header has {len(table.header)}"
        for line, row in zip(table.lines, table.rows, strict=True)
        if len(row) != len(table.header)
    ]
    if wrong:
        more = f" and {len(wrong) - 10} more" if wrong[10:] else ""
        remedy += f"; quote fields that contain {delimiter!r}"
        raise ManifestError("; ".join(wrong[:10]) + more, path=path, remedy=remedy)
    return table


UNITED = "|"  # in a manifest's mask_path: between the files of one mask


def digest_files(manifest: Path, data: Path, out: Path, hashes: FileHashes) -> None:
    """Write digests of the bytes of a manifest's images and of its ground truth, as they are now,
    to a JSON file. DVC, which sees the manifest only, compares it.

    Where the folder of the images is not there, what was written before is kept.
    """
    if not (remote.exists(data) if remote.is_url(data) else data.is_dir()) and out.is_file():
        return

    def digest(name: str) -> str:
        try:
            return hashes(remote.join(data, name))
        except RemoteError:
            raise
        except (OSError, PipelineError):
            return "missing"  # or unreadable: the stages say which

    table = read_text_csv(manifest)
    masks = [name for cell in table.column("mask_path") if cell for name in cell.split(UNITED)]
    names = {"images": table.column("path"), "masks": masks}
    digests = {kind: sha256_json([digest(name) for name in of]) for kind, of in names.items()}
    hashes.save()
    atomic_write_json(out, digests)


def _filled(row: list[str], least: int = 0) -> list[str]:
    """Return the fields of a row without empty ones at its end, but at least `least` of them."""
    filled = next((n for n in range(len(row), 0, -1) if row[n - 1].strip()), 0)
    return row[: max(least, filled)]


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
        self._lock: BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock, also one that a process left when it was killed.

        Raises:
            StoreError: a running process holds it, or a process on another host, which cannot be
                checked from here.
            DiskError: the folder cannot be written or has no locks, or the disk is full.
        """
        import socket

        lock, words = self._take(timeout=0.2), [os.path.basename(sys.argv[0]), *sys.argv[1:]]
        command = " ".join(" ".join(words).encode("utf-8", "replace").decode().split())[:200]
        me = {"host": socket.gethostname(), "pid": os.getpid(), "command": command}
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
        pid = self._holder().get("pid", "unknown")
        try:
            self._take(timeout=0).release()
        except PipelineError as error:
            return str(error)
        return f"{self.path}: process {pid} has ended - nothing to do: the next run takes the lock"

    def _take(self, timeout: float) -> BaseFileLock:
        import socket

        import filelock

        lock, here = filelock.FileLock(self.path, thread_local=False), socket.gethostname()
        with writing(self.path), suppress(filelock.Timeout):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._holder().get("host", here) == here:
                lock.acquire(timeout=timeout, poll_interval=0.02)
                return lock
        holder = {"host": here, "pid": "unknown", "command": ""} | self._holder()
        remedy = f"wait for it to end, or stop it; a {self.guards} has one writer at a time"
        if holder["host"] != here:
            remedy = f"if no run is alive on {holder['host']}, delete this file"
        who = f"process {holder['pid']} on {holder['host']} ({holder['command']})"
        message = f"the {self.guards} is being written by {who}"
        raise StoreError(message, path=self.path, remedy=remedy)

    def _holder(self) -> dict[str, Any]:
        """Return the holder named in the file; {} when there is none, or it is incomplete."""
        try:
            return dict(json.loads(self.path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}


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
    import psutil

    notes, dvc = [lock.describe() for lock in locks], root / ".dvc" / "tmp" / "rwlock"
    if dvc.exists():
        text = dvc.read_text(encoding="utf-8", errors="replace")
        pids = re.findall(r'"pid": *(\d+)', text)
        if any(psutil.pid_exists(int(pid)) for pid in pids) or not text.rstrip().endswith("}"):
            notes.append(f"{dvc}: used by dvc - delete this file when no dvc command is running")
    return notes
