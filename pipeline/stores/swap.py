"""A store of another identity is rebuilt beside the old one, which is replaced when all is done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.errors import StoreError


def _is_zarrs(name: str) -> bool:
    """Whether an array's folder has files of this name: metadata, or chunks `c/...`, `c.0`."""
    return name in ("zarr.json", "c") or name.startswith("c.")


class Workplace:
    """Which folder a writer works in.

    Args:
        path: the store. A rebuild works in the hidden folder `.<name>.rebuild` beside it, and goes
            on there after a kill. Nobody copies a store to such a name: copies called
            `masks.zarr.old` or `.new` are their owner's.
    """

    def __init__(self, path: Path):
        self.path = path
        self.new = path.with_name(f".{path.name}.rebuild")
        self.old = path.with_name(f".{path.name}.replaced")
        self.work = path

    def recover(self) -> None:
        """Finish an exchange that a kill cut between its two renames."""
        if self.old.exists():
            if not self.path.exists():
                os.rename(self.new if self.new.exists() else self.old, self.path)
            shutil.rmtree(self.old, ignore_errors=True)

    def build_beside(self) -> None:
        """Work in the new folder from now on."""
        self.work = self.new

    def clear(self) -> None:
        """Empty the folder that is worked in: an unfinished creation or an unusable rebuild.

        Raises:
            StoreError: it holds files that no store has, so it is somebody else's.
        """
        if self.work.exists():
            foreign = [
                entry.name
                for entry in self.work.iterdir()
                if not entry.name.startswith(".")
                and entry.name != "zarr.json"
                and not (entry.is_dir() and all(_is_zarrs(f.name) for f in entry.iterdir()))
            ]
            if foreign and self.work == self.path:
                raise StoreError(
                    f"a folder with other files, not a store: {', '.join(sorted(foreign)[:3])}",
                    path=self.path,
                    remedy="move it away",
                )
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True)

    def finish(self) -> None:
        """Put a rebuilt store in the old one's place; drop a rebuild that nobody wants any more."""
        if self.work == self.new:
            os.rename(self.path, self.old)
            os.rename(self.new, self.path)
            self.work = self.path
            shutil.rmtree(self.old)
        elif self.new.exists():
            shutil.rmtree(self.new)
