"""The real commands whose results are files and no stores, to be killed at work."""

from __future__ import annotations

import json
from multiprocessing import Process
from pathlib import Path

import pandas as pd

from benchmarks.real_stage import draw, start
from tests.site import IMAGES, STAGES, Site

FILES = ("audit", "prompt_quality", "train", "evaluate", "report")


def undisturbed(folder: Path) -> Site:
    """Return a project of phantoms in which all stages have run."""
    site = draw(folder, IMAGES)
    for stage in STAGES:
        site.stage(stage)
    return site


class FileStage:
    """A stage whose results are files, each replaced whole.

    Args:
        name: one of `FILES`.
        folder: an empty folder for the project.
    """

    url = ""

    def __init__(self, name: str, folder: Path):
        self.name, self.site = name, undisturbed(folder)
        self.rows = len(self.content())
        self.clear()

    def start(self, *, redo: bool = False) -> Process:
        """Start the stage; `redo`: over what is there.

        Only some can be told to compute again; the others always do.
        """
        force = ["--force"] if redo and self.name in ("prompt_quality", "train") else []
        return start(self.site, self.name, *force)

    def content(self) -> dict[str, bytes]:
        """Return the bytes of all its files."""
        return self.site.outputs(self.name)

    def faults(self) -> list[str]:
        """Return which of its files is not a whole one; one that is being written is no result."""
        names = [name for name in self.content() if ".partial" not in name]
        return [name for name in names if not _whole(self.site.root / name)]

    def clear(self) -> None:
        self.site.remove(self.name)

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        path = self.site.root / f"cache/breast/records/{self.name}.json"
        return self.site.record(self.name)["done"] if path.exists() else 0


def _whole(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            return len(pd.read_parquet(path).columns) > 0
        if path.suffix == ".json":
            return bool(json.loads(path.read_text()))
        if path.suffix == ".csv":
            return len(pd.read_csv(path)) > 0
        if path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        return path.stat().st_size > 0
    except ValueError:
        return False
