"""The real `segment` and `encode` of the command line on a few phantoms, to be killed at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.store_stage import StoreStage

REPO = Path(__file__).resolve().parent.parent
DATASET = "breast"
STORES = {"segment": "masks.zarr", "encode": "features.zarr"}


class Command:
    """A running command, with what is used of `multiprocessing.Process`.

    Args:
        arguments: of `python -m pipeline`.
        root: the project folder; what the command says goes to said.log there.
    """

    def __init__(self, arguments: list[str], root: Path):
        self.log = root / "said.log"
        with open(self.log, "wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *arguments],
                cwd=root,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPO)},
            )

    def join(self, seconds: float | None = None) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


class RealStage(StoreStage):
    """A model stage on a dataset of phantoms.

    Args:
        name: "segment" or "encode".
        folder: an empty folder for the project.
        images: how many.
    """

    def __init__(self, name: str, folder: Path, images: int):
        self.name, self.root, self.rows = name, folder, images
        (folder / "data_manifests").mkdir(parents=True)
        shutil.copy(REPO / "params.yaml", folder)
        shutil.copy(REPO / "data_manifests/prompts.yaml", folder / "data_manifests")
        self._run("data", "sample", "--dataset", DATASET, "--images", str(images))
        if name == "encode":
            self._run("segment", "--dataset", DATASET)
        self.store = folder / "cache" / DATASET / STORES[name]

    def _run(self, *arguments: str) -> None:
        command = Command(list(arguments), self.root)
        command.join()
        if command.exitcode != 0:
            raise RuntimeError(command.said)

    def start(self, *, redo: bool = False) -> Command:
        """Start the stage and return it when its models are loaded and it begins its work; `redo`
        computes again what is there."""
        options = ["--batch-size", "4", *(["--force"] if redo else [])]
        command = Command([self.name, "--dataset", DATASET, *options], self.root)
        while command.is_alive() and "to do" not in command.said:
            time.sleep(0.005)
        return command

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        record = self.root / "cache" / DATASET / "records" / f"{self.name}.json"
        return json.loads(record.read_text())["done"]
