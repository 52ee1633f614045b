"""The real `segment` and `encode` of the command line on a few phantoms, to be killed at work."""

from __future__ import annotations

from multiprocessing import Process
from pathlib import Path

from benchmarks.store_stage import StoreStage
from tests.site import Site, stage_command

DATASET = "breast"
STORES = {"segment": "masks.zarr", "encode": "features.zarr"}


def draw(folder: Path, images: int) -> Site:
    """Return a project of phantoms with nothing computed."""
    site = Site.create(folder)
    site.run("pipeline", "data", "sample", "--dataset", DATASET, "--images", str(images))
    return site


def start(site: Site, stage: str, *options: str) -> Process:
    """Start a stage; return its process when its models are loaded and it begins its work."""
    running = site.begin(*stage_command(stage), *options)
    if stage in (*STORES, "prompt_quality", "train"):  # these print what they are going to do
        running.until(lambda: "to do" in running.output)
    return running.process


class RealStage(StoreStage):
    """A model stage on a dataset of phantoms.

    Args:
        name: "segment" or "encode".
        folder: an empty folder for the project.
        images: how many.
    """

    def __init__(self, name: str, folder: Path, images: int):
        self.name, self.site, self.rows = name, draw(folder, images), images
        if name == "encode":
            self.site.stage("segment")
        self.store = folder / "cache" / DATASET / STORES[name]

    def start(self, *, redo: bool = False) -> Process:
        """Start the stage; `redo` computes again what is stored."""
        return start(self.site, self.name, "--batch-size", "4", *(["--force"] if redo else []))

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        return self.site.record(self.name)["done"]
