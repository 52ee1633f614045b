"""The real commands on a few phantoms, to be killed at work: of stores, and of single files."""

from __future__ import annotations

import json
from multiprocessing import Process
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.store_stage import StoreStage, opened
from pipeline.paths import Paths
from tests.site import IMAGES, STAGES, Site, stage_command

DATASET = "breast"
STORES = {"segment": Paths.masks, "encode": Paths.features}
FILES = ("audit", "prompt_quality", "train", "evaluate", "report")
OFTEN = "import pipeline.store.writer as writer; writer.REMOTE_COMMIT_SECONDS = 0.0"


def draw(folder: Path, images: int) -> Site:
    """Return a project of phantoms with nothing computed."""
    site = Site.create(folder)
    site.run("pipeline", "data", "sample", "--dataset", DATASET, "--images", str(images))
    return site


def start(site: Site, stage: str, *options: str) -> Process:
    """Start a stage; return its process when its models are loaded and it begins its work."""
    running = site.begin(*stage_command(stage), *options, first=OFTEN)
    if stage in (*STORES, "prompt_quality", "train"):  # these print what they are going to do
        running.until(lambda: "to do" in running.output)
    return running.process


class RealStage(StoreStage):
    """A model stage on a dataset of phantoms.

    Args:
        name: "segment" or "encode".
        folder: an empty folder for the project.
        images: how many.
        url: where its stores are; default: in the project.
    """

    def __init__(self, name: str, folder: Path, images: int, url: str = ""):
        self.name, self.site, self.rows = name, draw(folder, images), images
        self.url, root = url, url or Paths.store_root
        self.options = ["--batch-size", "4", "--set", f"store_root={root}"]
        if name == "encode":
            self.site.stage("segment", *self.options)
        self.store = STORES[name](Paths(folder, store_root=root), DATASET)

    def start(self, *, redo: bool = False) -> Process:
        """Start the stage; `redo` computes again what is stored."""
        return start(self.site, self.name, *self.options, *(["--force"] if redo else []))

    def content(self) -> tuple[pd.DataFrame, dict[str, dict]]:
        store = opened(self.store)
        return store.table().drop(columns="crc"), {name: store.read(name) for name in store}

    def same(self, expected: tuple, found: tuple) -> bool:
        """Return whether masks are equal to the bit, and scores and features to 1e-5: a run that
        goes on has other batches."""
        tolerance = {"rtol": 0, "atol": 0 if self.name == "segment" else 1e-5}
        try:
            pd.testing.assert_frame_equal(expected[0], found[0], rtol=0, atol=1e-5)
            for name, data in expected[1].items():
                for key, values in data.items():
                    np.testing.assert_allclose(found[1][name][key], values, **tolerance)
        except (AssertionError, KeyError):
            return False
        return len(found[1]) == len(expected[1])

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        return self.site.record(self.name)["done"]


class FileStage:
    """A stage whose results are files, each replaced whole.

    Args:
        name: one of `FILES`.
        folder: an empty folder for the project.
    """

    url = ""

    def __init__(self, name: str, folder: Path):
        self.name, self.site = name, draw(folder, IMAGES)
        for stage in STAGES:
            self.site.stage(stage)
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
