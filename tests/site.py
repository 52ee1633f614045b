"""A small project on disk, built by the real commands, and how to run commands in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from examples.demo import small_params
from tests import warm
from tests.project import write_params

REPO = warm.REPO
DATASETS = ("breast", "covid")
IMAGES = 16
"""Phantoms of each dataset, 12 for training and 4 for testing."""
HALF = 6
"""Images of `breast` that are segmented and encoded in the project `half`."""

SETTINGS: dict[str, Any] = {
    "datasets": list(DATASETS),
    "prompt_quality.phantoms": 4,
    "prompt_quality.strategies": ["salient", "center-box", "box"],
    "encode.views": ["whole", "masked", "oracle", "random"],
    "splits.fractions": [0.5, 1.0],
    "splits.folds": 2,
    "train.seeds": [0, 1],
    "train.views": {"official": ["whole", "masked"], "ground_truth": ["masked", "oracle"]},
    "learners.linear-probe.c_steps": 3,
    "learners.medfocus.epochs": 5,
    "learners.medfocus-probe.epochs": 5,
    "learners.medfocus-probe.c_steps": 3,
    "evaluate.bootstrap": 50,
    "report.gallery": 4,
}
"""What differs from the small study of the tests."""

STAGES = ("audit", "segment", "prompt_quality", "encode", "train", "evaluate", "report")
STORES = {"segment": "cache/breast/masks.zarr", "encode": "cache/breast/features.zarr"}
"""The stages that append to a store, and the store."""


def small_study() -> dict[str, Any]:
    """Return params.yaml with the small study of the tests."""
    return small_params(REPO / "tests/small.yaml")


def stages_run(output: str) -> set[str]:
    """Return the stages that `dvc repro` ran, without those that look whether files have changed,
    which it always runs."""
    return set(re.findall(r"Running stage '(?!stages/)([^']+)'", output))


def stage_command(stage: str, dataset: str = "breast") -> list[str]:
    """Return the arguments of `pipeline` for a stage of a dataset."""
    # Worker processes take a second to start; a test that needs them says so.
    if stage == "report":  # of all datasets
        return [stage]
    jobs = ["--jobs", "1"] if stage in ("train", "evaluate") else []
    return [stage.replace("_", "-"), "--dataset", dataset, *jobs]


@dataclass(frozen=True)
class Site:
    """A project folder with its own copy of the code, in a git and DVC repository."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Site:
        """Copy the checkout's own files, with a small params.yaml."""
        wanted = (
            "pipeline",
            "stages",
            ".dvc",
            "data_manifests/prompts.yaml",
            "checkpoints",
            ":(glob)*",
        )
        list_files = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")
        listed = subprocess.check_output([*list_files, *wanted], cwd=REPO, text=True)
        for name in listed.split("\0")[:-1]:
            if (REPO / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, root / name)
        site = cls(root)
        write_params(root, **SETTINGS)
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=root, check=True)
        return site

    def copy(self, root: Path) -> Site:
        """Copy the project. DVC's objects and the weights, which no test writes to, are links."""

        def copy(source: str, target: str) -> None:
            linked = "/pipeline/models/weights/" in source or "/.dvc/cache/" in source
            (os.link if linked else shutil.copy2)(source, target)

        shutil.copytree(self.root, root, symlinks=True, copy_function=copy)
        return Site(root)

    # -- running commands -------------------------------------------------------------------------

    @staticmethod
    def environment() -> dict[str, str]:
        """Return the variables of all commands; the stages of DVC are forked, see `tests.warm`."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
            "LOKY_MAX_CPU_COUNT": "1",  # a worker process takes seconds to start
            "SHELL": str(warm.programs() / "sh"),
        }

    def begin(
        self, *arguments: str, module: str = "pipeline", first: str = "", **environment: str
    ) -> warm.Running:
        """Start `pipeline ...`, forked; `first` is Python code that its process runs before."""
        log = self.root.parent / f"{self.root.name}-{time.monotonic_ns()}.log"
        variables = self.environment() | environment
        return warm.start(module, arguments, self.root, variables, log, first)

    def run(
        self, module: str, *arguments: str, code: int = 0, first: str = "", **environment: str
    ) -> str:
        """Run `pipeline ...` or `dvc ...`, forked, to its end with this exit code; return what it
        printed on either stream."""
        running = self.begin(*arguments, module=module, first=first, **environment)
        ended, output = running.wait(), running.output
        assert ended == code, f"{module} {arguments} -> {ended}\n{output}"
        assert "Traceback" not in output, output
        return output

    def stage(self, stage: str, *options: str, code: int = 0, first: str = "") -> str:
        """Run a stage of `breast` to its end; return what it printed."""
        return self.run("pipeline", *stage_command(stage), *options, code=code, first=first)

    # -- reading and changing files ---------------------------------------------------------------

    def params(self, **changes: object) -> None:
        """Change values of params.yaml: `params(segment__prompt="full")`."""
        path = self.root / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            *parents, leaf = dotted.split("__")
            reduce(dict.__getitem__, parents, raw)[leaf] = value
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def record(self, stage: str, dataset: str = "breast") -> dict[str, Any]:
        """Return the record of a stage's last run."""
        return json.loads((self.root / f"cache/{dataset}/records/{stage}.json").read_text())

    def rows(self, dataset: str = "breast") -> list[dict[str, str]]:
        """Return the rows of a manifest."""
        table = self.root / f"data_manifests/{dataset}.csv"
        return pd.read_csv(table, dtype=str, keep_default_na=False).to_dict("records")

    def ids(self, dataset: str = "breast") -> list[str]:
        """Return the image ids of a manifest, in its order."""
        return [row["image_id"] for row in self.rows(dataset)]

    def only(self, image_ids: list[str]) -> list[str]:
        """Return the option `--only` for these images."""
        (self.root / "only.csv").write_text("\n".join(["image_id", *image_ids]) + "\n")
        return ["--only", "only.csv"]

    def outs(self, stage: str) -> list[Path]:
        """Return the outputs that dvc.yaml names for a stage of `breast`."""
        text = (self.root / "dvc.yaml").read_text().replace("${item.dataset}", "breast")
        stated = yaml.safe_load(text)["stages"][stage]
        named = [out for kind in ("outs", "metrics", "plots") for out in stated.get(kind, [])]
        names = [next(iter(out)) if isinstance(out, dict) else out for out in named]
        patterns = [name.replace("${item.learner}", "*") for name in names]
        return [path for pattern in patterns for path in sorted(self.root.glob(pattern))]

    def outputs(self, stage: str) -> dict[str, bytes]:
        """Return the bytes of all files that a stage of `breast` wrote, by path."""
        found = [f for path in self.outs(stage) for f in (path, *sorted(path.rglob("*")))]
        return {str(f.relative_to(self.root)): f.read_bytes() for f in found if f.is_file()}

    def remove(self, stage: str) -> None:
        """Remove what a stage of `breast` wrote."""
        kept = (self.root / "cache/breast").glob("thumbnails.*") if stage == "audit" else ()
        for path in [*self.outs(stage), *kept]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def before(self, stage: str, half: Site, root: Path) -> Site:
        """Return a copy in which a stage has work to do: it has half its store, or no output."""
        site = self.copy(root)
        site.remove(stage)
        if stage in STORES:
            shutil.copytree(half.root / STORES[stage], root / STORES[stage])
        return site

    def leftovers(self) -> list[str]:
        """Return lock files, half-written files and journals below cache/ and report/."""
        patterns = ("*.lock", ".*partial*", "partial-*", ".*.rebuild", ".*.replaced", "*.journal*")
        folders = (self.root / "cache", self.root / "report")
        return sorted(str(f) for d in folders for p in patterns for f in d.rglob(p))
