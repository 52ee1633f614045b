"""A small project on disk, built by the real commands, and how to run commands in it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests import warm

REPO = warm.REPO
DATASETS = ("breast", "covid")
IMAGES = 16
"""Phantoms of each dataset, 12 for training and 4 for testing."""
HALF = 6
"""Images of `breast` that are segmented and encoded in the project `half`."""

SETTINGS: dict[str, Any] = {
    "datasets": list(DATASETS),
    "prompt_quality": {"phantoms": 4, "strategies": ["salient", "center-box", "box"]},
    "encode": {"views": ["whole", "masked", "oracle", "random"]},
    "splits": {"fractions": [0.5, 1.0], "folds": 2},
    "train": {
        "seeds": [0, 1],
        "views": {"official": ["whole", "masked"], "ground_truth": ["masked", "oracle"]},
    },
    "evaluate": {"bootstrap": 50},
    "report": {"gallery": 4},
}
LEARNERS = {
    "linear-probe": {"c_steps": 3},
    "medfocus": {"epochs": 5},
    "medfocus-probe": {"epochs": 5, "c_steps": 3},
}

STAGES = ("audit", "segment", "prompt_quality", "encode", "train", "evaluate", "report")
STORES = {"segment": "cache/breast/masks.zarr", "encode": "cache/breast/features.zarr"}
"""The stages that append to a store, and the store."""


def shrink(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return params.yaml with the settings of the small project."""
    small = dict(params)
    for key, value in SETTINGS.items():
        small[key] = small[key] | value if isinstance(value, dict) else value
    small["learners"] = {k: v | LEARNERS.get(k, {}) for k, v in small["learners"].items()}
    return small


def stages_run(output: str) -> set[str]:
    """Return the stages that `dvc repro` ran."""
    return set(re.findall(r"Running stage '([^']+)'", output))


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
    def create(cls, root: Path, params: Mapping[str, Any] | None = None) -> Site:
        """Copy the checkout's own files, with a small params.yaml or the given one."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPO,
            capture_output=True,
            check=True,
            text=True,
        )
        for name in listed.stdout.split("\0"):
            wanted = name.startswith(("pipeline/", "stages/", ".dvc")) or "/" not in name
            wanted = name and (wanted or name == "data_manifests/prompts.yaml")
            if wanted and (REPO / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, root / name)
        if params is None:
            params = shrink(yaml.safe_load((root / "params.yaml").read_text()))
        (root / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False))
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=root, check=True)
        return cls(root)

    def copy(self, root: Path) -> Site:
        """Copy the project. DVC's objects and the weights, which no test writes to, are links."""

        def copy(source: str, target: str) -> None:
            inside = os.path.relpath(source, self.root)
            if inside.startswith(("pipeline/models/weights/", ".dvc/cache/")):
                with contextlib.suppress(OSError):
                    return os.link(source, target)
            return shutil.copy2(source, target)

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

    def run(self, *command: str, code: int | None = 0, **environment: str) -> str:
        """Run `pipeline ...` or `dvc ...`, forked, or `python ...` or `bash ...` to its end.

        Args:
            command: the command.
            code: the exit code to check; None = any.
            environment: more variables.

        Returns:
            What it printed on either stream.
        """
        if command[0] in ("pipeline", "dvc"):
            running = self.begin(*command[1:], module=command[0], **environment)
            ended, output = running.wait(), running.output
            running.log.unlink()
        else:
            process = self.start(*command, **environment)
            output = process.communicate(timeout=900)[0]
            ended = process.returncode
        if code is not None:
            assert ended == code, f"{command} -> {ended}\n{output}"
            assert "Traceback" not in output, output
        return output

    def begin(
        self,
        *arguments: str,
        module: str = "pipeline",
        first: str = "",
        log: Path | None = None,
        **environment: str,
    ) -> warm.Running:
        """Start `pipeline ...`, forked; `first` is Python code that its process runs before."""
        return warm.start(
            arguments,
            root=self.root,
            environment=self.environment() | environment,
            log=log or self.root.parent / f"{self.root.name}-{time.monotonic_ns()}.log",
            first=first,
            module=module,
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a new process of its own."""
        program, *arguments = command
        arguments = ["-m", program, *arguments] if program in ("pipeline", "dvc") else arguments
        return subprocess.Popen(
            [program if program == "bash" else sys.executable, *arguments],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment() | environment,
        )

    def stage(self, stage: str, *options: str, code: int = 0, first: str = "") -> str:
        """Run a stage of `breast` to its end; return what it printed."""
        running = self.begin(*stage_command(stage), *options, first=first)
        ended = running.wait()
        assert ended == code, f"{stage} -> {ended}\n{running.output}"
        assert "Traceback" not in running.output, running.output
        return running.output

    # -- reading and changing files ---------------------------------------------------------------

    def params(self, **changes: object) -> None:
        """Change values of params.yaml: `params(segment__prompt="full")`."""
        path = self.root / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            *parents, leaf = dotted.split("__")
            table = raw
            for key in parents:
                table = table[key]
            table[leaf] = value
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def record(self, stage: str, dataset: str = "breast") -> dict[str, Any]:
        """Return the record of a stage's last run."""
        return json.loads((self.root / f"cache/{dataset}/records/{stage}.json").read_text())

    def predictions(self, dataset: str = "breast") -> pd.DataFrame:
        """Return the predictions of all learners."""
        cache = self.root / "cache" / dataset
        files = sorted(cache.glob("runs/*/predictions.parquet"))
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)

    def rows(self, dataset: str = "breast") -> list[dict[str, str]]:
        """Return the rows of a manifest."""
        path = self.root / f"data_manifests/{dataset}.csv"
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def ids(self, dataset: str = "breast") -> list[str]:
        """Return the image ids of a manifest, in its order."""
        return [row["image_id"] for row in self.rows(dataset)]

    def only(self, image_ids: list[str]) -> list[str]:
        """Return the option `--only` for these images."""
        (self.root / "only.csv").write_text("\n".join(["image_id", *image_ids]) + "\n")
        return ["--only", "only.csv"]

    def outs(self, stage: str, dataset: str = "breast") -> list[Path]:
        """Return the outputs that dvc.yaml names for a stage of a dataset."""
        stated = yaml.safe_load((self.root / "dvc.yaml").read_text())["stages"][stage]
        found: list[Path] = []
        for kind in ("outs", "metrics", "plots"):
            for entry in stated.get(kind, []):
                name = next(iter(entry)) if isinstance(entry, dict) else entry
                name = re.sub(r"\$\{item[^}]*\}", "*", name.replace("${item.dataset}", dataset))
                found += sorted(self.root.glob(name))
        return found

    def outputs(self, stage: str) -> dict[str, bytes]:
        """Return the bytes of all files that a stage of `breast` wrote, by path."""
        found = {}
        for path in self.outs(stage):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[str(file.relative_to(self.root))] = file.read_bytes()
        return found

    def remove(self, stage: str) -> None:
        """Remove what a stage of `breast` wrote."""
        for path in self.outs(stage):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if stage == "audit":  # kept from run to run
            for file in (self.root / "cache/breast").glob("thumbnails.*"):
                file.unlink()

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
