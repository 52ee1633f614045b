"""A zip of images: looked at as a whole, then extracted whole or not at all."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.errors import ManifestError
from pipeline.images import is_junk
from pipeline.io import partial_path, writing
from pipeline.manifest import unreadable

MAX_RATIO = 200  # images hardly shrink; a file that grows more than this when unpacked is a bomb
SMALL = 2**26  # ... unless all of it is small, e.g. black masks
MAX_BYTES = 2**40
MAX_FILES = 5_000_000
BLOCK = 2**20


@contextmanager
def extracted(archive: Path, target: Path) -> Iterator[Path]:
    """Extract a zip beside `target` and yield that folder, for the caller to move into place.

    What is not moved away is removed at the end, so that a zip that is not sound, or not wanted
    in the end, leaves nothing behind.

    Raises:
        ManifestError: not a zip, cut, damaged, encrypted; an entry that climbs out of the folder,
            is a link, or comes twice; a name that the file system does not take; a bomb; no room
            on the disk.
        DiskError: the folder cannot be written, or the disk is full.
    """
    fresh = not target.parent.exists()
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _unpack(archive, partial)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if fresh and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _unpack(archive: Path, partial: Path) -> None:
    """Make folder `partial` of what is in a zip; errors as `extracted`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _sound(archive, opened, partial.parent)
            with writing(partial.parent):
                partial.mkdir()
                for entry in entries:
                    _extract(archive, opened, entry, partial)
    except zipfile.BadZipFile:
        raise ManifestError(
            "is no zip, or one that was cut short", path=archive, remedy="download it again"
        ) from None
    except (zlib.error, EOFError, NotImplementedError) as error:
        raise ManifestError(
            f"is damaged or packed in a way that is not known ({error})",
            path=archive,
            remedy="download it again, or unpack it yourself and pass the folder",
        ) from None
    except OSError as error:
        raise unreadable(archive, error) from None


def _sound(archive: Path, opened: zipfile.ZipFile, place: Path) -> list[zipfile.ZipInfo]:
    """Check every entry before the first is written; return those to extract."""

    def refuse(what: str, remedy: str = "do not use this file: ask where it comes from") -> None:
        raise ManifestError(what, path=archive, remedy=remedy)

    entries, seen = [], set()
    for entry in opened.infolist():
        name = entry.filename
        pure = PurePosixPath(name)
        drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
        if pure.is_absolute() or ".." in pure.parts or "\0" in name or drive:
            refuse(f"entry {name!r} climbs out of its folder")
        if "\\" in name:
            refuse(f"entry {name!r} has backslashes for folders", "pack it with another program")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(f"entry {name!r} is a link or device", "pack the files themselves")
        if entry.flag_bits & 1:
            refuse("is encrypted", "unpack it yourself and pass the folder")
        if entry.is_dir() or is_junk(name):
            continue
        if pure in seen:
            refuse(f"entry {name!r} comes twice", "pack it again")
        seen.add(pure)
        entries.append(entry)
    if not entries:
        refuse("the zip holds no files", "check the file")
    files = {entry.filename for entry in entries}
    for pure in seen:
        if any(parent.as_posix() in files for parent in pure.parents):
            refuse(f"entry {pure.as_posix()!r} lies below a file", "pack it again")
    size = sum(entry.file_size for entry in entries)
    packed = max(1, archive.stat().st_size)
    if size > MAX_BYTES or len(entries) > MAX_FILES or (size > SMALL and size / packed > MAX_RATIO):
        refuse(f"would unpack to {size:,} bytes in {len(entries):,} files: a zip bomb")
    free = shutil.disk_usage(place).free
    if size > free:
        refuse(f"needs {size:,} bytes, {free:,} are free", f"make room at {place}")
    return entries


def _extract(archive: Path, opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    file = folder / entry.filename
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unpacked = open(file, "xb")  # noqa: SIM115
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        raise ManifestError(
            f"entry {entry.filename[:60]!r}... has a name that the file system does not take",
            path=archive,
            remedy="give it a shorter or plainer name and pack it again",
        ) from None
    left = entry.file_size
    with unpacked, opened.open(entry) as packed:
        while block := packed.read(BLOCK):
            left -= len(block)
            if left < 0:  # the header lied about the size
                raise ManifestError(
                    f"entry {entry.filename!r} is larger than it says: a zip bomb",
                    path=archive,
                    remedy="do not use this file: ask where it comes from",
                )
            unpacked.write(block)
