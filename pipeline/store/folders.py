"""A store that is built next to another one replaces it when it is complete."""

from __future__ import annotations

import fcntl
import glob
import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.io import fsync_path
from pipeline.store.layout import PARTIAL


class Folders:
    """The folders of a store and of its replacement.

    Args:
        path: the store. A rebuild is made in the hidden folder `.<name>.rebuild` and continues
            there after a kill; a compaction is made in `.<name>.compact` and starts again. The
            store that was replaced is deleted at once, or, if a reader has it open, stays as
            `.<name>.replaced0` until a later writer finds it unused. Copies with names such as
            `masks.zarr.old` are never touched.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rebuild = path.with_name(f".{path.name}.rebuild")
        self.compact = path.with_name(f".{path.name}.compact")
        self.work = path

    def recover(self) -> None:
        """Complete a replacement that was interrupted between its two renames; clean up."""
        if self.replaced() and not self.path.exists():
            for new in (self.rebuild, self.compact):
                if new.exists():
                    os.rename(new, self.path)
                    break  # neither exists where the store itself was deleted later
        shutil.rmtree(self.compact, ignore_errors=True)
        for folder in (self.path, self.rebuild):
            for partial in folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)
        for old in self.replaced():
            if in_use(old) is not True:
                shutil.rmtree(old, ignore_errors=True)

    def replaced(self) -> list[Path]:
        """Return the folders of replaced stores that have not been deleted yet."""
        return sorted(self.path.parent.glob(f".{glob.escape(self.path.name)}.replaced*"))

    def check_ours(self, arrays: tuple[str, ...]) -> None:
        """Raise StoreError when the folder holds files that no store has."""
        if not self.path.exists():
            return
        names = [entry.name for entry in self.path.iterdir()]
        foreign = [
            name
            for name in names
            if not name.startswith((".", "index-")) and name not in (*arrays, "zarr.json")
        ]
        if foreign and "zarr.json" not in names:
            raise StoreError(
                f"a folder with other files, not a store: {', '.join(sorted(foreign)[:3])}",
                path=self.path,
                remedy="move it away",
            )

    def clear(self, folder: Path) -> None:
        """Make an empty folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def replace(self, new: Path) -> None:
        """Put the complete store `new` in the place of the store."""
        if self.path.exists():
            names = {old.name for old in self.replaced()}
            free = (f".{self.path.name}.replaced{n}" for n in itertools.count())
            os.rename(self.path, self.path.with_name(next(n for n in free if n not in names)))
        os.rename(new, self.path)
        fsync_path(self.path.parent)
        self.work = self.path
        for old in self.replaced():
            if in_use(old) is False:
                shutil.rmtree(old, ignore_errors=True)


def keep_open(folder: int) -> None:
    """Mark an open folder as being read, for as long as its file descriptor is open."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)


def in_use(folder: Path) -> bool | None:
    """Return whether a reader has a store open; None when its file system has no locks."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
