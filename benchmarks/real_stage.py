"""The real `segment` and `encode` of the command line on a few phantoms, to be killed at work."""

from __future__ import annotations

from multiprocessing import Process
from pathlib import Path

from benchmarks.store_stage import StoreStage
from pipeline.paths import Paths
from tests.site import Site, stage_command

DATASET = "breast"
STORES = {"segment": Paths.masks, "encode": Paths.features}
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

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        return self.site.record(self.name)["done"]
