"""Atomic writes: a reader sees the old file or the new one, never a half of either."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from pipeline.errors import DiskError, PipelineError

REMEDIES = {
    errno.ENOSPC: "free some space and run again; it goes on from here",
    errno.EDQUOT: "free some of your quota and run again; it goes on from here",
    errno.EFBIG: "raise the file size limit (ulimit -f) and run again",
    errno.EROFS: "its folder must be writable",
    errno.EACCES: "its folder must be writable; check its owner and mode",
    errno.EPERM: "its folder must be writable; check its owner and mode",
}


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Turn an `OSError` of the code inside into a `DiskError` that names `path` and the remedy."""
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
    """Yield a temporary path beside `path`; on success it replaces `path`, on error it is removed.

    The temporary name keeps the suffix, since many writers choose their format by it.

    Raises:
        DiskError: the file cannot be written; `path` is as it was.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        partial = partial_path(path)
        try:
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with suppress(OSError):  # on a read-only disk: the error that led here says so
                partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Return where this process writes a file or folder before it takes its place."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left at their `partial_path`s; one that still runs keeps its."""
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
    """Write sorted, indented JSON; NaN is refused, since no other reader accepts it."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def open_bytes(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        PipelineError: it is a pipe, socket or device, of which a reader might wait for ever.
        OSError: it cannot be opened.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder the system says what it is
        raise PipelineError(
            "is a pipe, socket or device, not a file", path=path, remedy="give the file itself"
        )
    return open(path, "rb")


def sha256_file(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read in blocks.

    Raises:
        PipelineError, OSError: as `open_bytes`.
    """
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value's canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
