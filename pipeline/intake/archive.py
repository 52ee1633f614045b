"""A zip of images: every entry is checked before the first is extracted."""

from __future__ import annotations

import re
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

MAX_RATIO = 200  # of unpacked to packed size; images hardly compress, so that more is a bomb,
MAX_SMALL = 2**26  # unless the whole is small, e.g. black masks
MAX_NAME = 255  # bytes of a file name, on all usual file systems


@contextmanager
def extracted(source: Path, target: Path) -> Iterator[Path]:
    """Extract a zip next to `target` and yield that folder, for the caller to move into place; what
    is not a zip is yielded as it is.

    Whatever is not moved away is removed at the end.

    Raises:
        ManifestError: not a zip, cut short, damaged or encrypted; an entry leads out of the
            folder, is a link, or comes twice; a zip bomb; not enough room on the disk.
        DiskError: the folder cannot be written, or the disk is full.
    """
    if source.suffix.lower() != ".zip" or source.is_dir() or not source.exists():
        yield source
        return
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _extract(source, partial)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened, writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            entries = _checked_entries(archive, opened, folder.parent)
            folder.mkdir()
            for entry in entries:
                _extract_entry(opened, entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise ManifestError(
            f"is not a zip, or is cut short, damaged or cannot be read ({error})",
            path=archive,
            remedy="download it again, or unpack it yourself and pass the folder",
        ) from None


def _extract_entry(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    file = folder / entry.filename
    file.parent.mkdir(parents=True, exist_ok=True)
    # zipfile never yields more bytes than the entry's stated size, which is checked before.
    with opened.open(entry) as packed, open(file, "xb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


def _checked_entries(archive: Path, opened: zipfile.ZipFile, place: Path) -> list[zipfile.ZipInfo]:
    """Check every entry; return those to extract to `place`, without junk."""

    def refuse(what: str, remedy: str = "do not use this file: ask where it comes from") -> None:
        raise ManifestError(what, path=archive, remedy=remedy)

    entries, seen = [], set()
    for entry in opened.infolist():
        name, pure = entry.filename, PurePosixPath(entry.filename)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name or re.match("[A-Za-z]:", name):
            refuse(f"entry {name!r} leads out of its folder")
        if "\\" in name:
            refuse(f"entry {name!r} has backslashes for folders", "pack it with another program")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(f"entry {name!r} is a link or device", "pack the files themselves")
        if entry.flag_bits & 1:
            refuse("is encrypted", "unpack it yourself and pass the folder")
        if entry.is_dir() or is_junk(name):
            continue
        if any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in pure.parts):
            refuse(f"entry {name[:60]!r}... has too long a name", "shorten it and pack it again")
        if pure in seen:
            refuse(f"entry {name!r} comes twice", "pack it again")
        seen.add(pure)
        entries.append(entry)
    if not entries:
        refuse("the zip holds no files", "check the file")
    size = sum(entry.file_size for entry in entries)
    if size > MAX_SMALL and size / max(1, archive.stat().st_size) > MAX_RATIO:
        refuse(f"would unpack to {size:,} bytes in {len(entries):,} files: a zip bomb")
    free = shutil.disk_usage(place).free
    if size > free:
        refuse(f"needs {size:,} bytes, {free:,} are free", f"make room at {place}")
    return entries
