"""The real `segment` and `encode` of the command line on a few phantoms, to be killed at work."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.store_stage import StoreStage
from tests.faults.site import REPO, Running, Site

DATASET = "breast"
STORES = {"segment": "masks.zarr", "encode": "features.zarr"}


class Worker:
    """A running command, with what is used of `multiprocessing.Process`."""

    def __init__(self, running: Running):
        self._process = running.process

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()


class RealStage(StoreStage):
    """A model stage on a dataset of phantoms.

    Args:
        name: "segment" or "encode".
        folder: an empty folder for the project.
        images: how many.
    """

    def __init__(self, name: str, folder: Path, images: int):
        self.name, self.site, self.rows = name, Site(folder), images
        (folder / "data_manifests").mkdir(parents=True)
        shutil.copy(REPO / "params.yaml", folder)
        shutil.copy(REPO / "data_manifests/prompts.yaml", folder / "data_manifests")
        self.site.run("data", "sample", "--dataset", DATASET, "--images", str(images)).expect(0)
        if name == "encode":
            self.site.run("segment", "--dataset", DATASET).expect(0)
        self.store = folder / "cache" / DATASET / STORES[name]

    def start(self, *, redo: bool = False) -> Worker:
        """Start the stage and return it when its models are loaded and it begins its work; `redo`
        computes again what is there."""
        options = ["--batch-size", "4", *(["--force"] if redo else [])]
        running = self.site.start(self.name, "--dataset", DATASET, *options)
        running.at_work(self.name)
        return Worker(running)

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        record = self.site.root / "cache" / DATASET / "records" / f"{self.name}.json"
        return json.loads(record.read_text())["done"]
