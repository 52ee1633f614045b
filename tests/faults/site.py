"""A small project on disk, the real commands run in it, and what each stage leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image

from tests import warm

REPO = Path(__file__).resolve().parents[2]
SECONDS = 240  # longest that a command may take here: nothing hangs

PARAMS: dict[str, Any] = {
    "datasets": ["toy"],
    "segment": {"prompt": "center-box", "zoom": 0},
    "prompt_quality": {"strategies": ["center-box", "box"]},
    "encode": {"views": ["whole", "masked"]},
    "splits": {"fractions": [0.5, 1.0], "folds": 2},
    "train": {
        "seeds": [0, 1],
        "views": {"official": ["whole", "masked"]},
        "epochs": 3,
        "c_steps": 2,
    },
    "evaluate": {"bootstrap": 50},
    "report": {"gallery": 2, "heatmaps": 0},
}
PROMPTS = "templates: {default: ['a photo of {}.']}\nclasses: {toy: {cat: a cat, dog: a dog}}\n"

STAGES = ("audit", "segment", "prompt_quality", "encode", "train", "evaluate", "report")
STORES = ("segment", "encode")
"""The stages that write a store."""

IMAGES = {"train": 10, "test": 6}
"""Images of each class and split."""

LOADED = {"audit": "pyarrow", "train": "sklearn", "evaluate": "pyarrow", "report": "pandas"}
"""A library that a stage has loaded when it is past its start-up."""

OUTPUTS = {
    "audit": (
        "cache/toy/thumbnails.bin",
        "cache/toy/audit.parquet",
        "cache/toy/audit_pairs.parquet",
        "cache/toy/audit.json",
    ),
    "segment": ("cache/toy/masks.zarr",),
    "prompt_quality": ("cache/toy/prompt_quality.parquet",),
    "encode": ("cache/toy/features.zarr",),
    "train": ("cache/toy/heads", "cache/toy/runs.parquet", "cache/toy/predictions.parquet"),
    "evaluate": (
        "cache/toy/metrics.parquet",
        "cache/toy/metrics.json",
        "cache/toy/mask_quality.parquet",
        "cache/toy/plots",
    ),
    "report": ("report/index.html",),
}
"""What each stage writes, beside its record."""


def picture(seed: int, height: int = 40, width: int = 48, *, bright: bool = True) -> np.ndarray:
    """A bright or dim ellipse on noise: uint8 (height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = ((y - cy) / (height / 4)) ** 2 + ((x - cx) / (width / 5)) ** 2 < 1
    return (rng.integers(0, 90, (height, width)) + (150 if bright else 60) * inside).astype("u1")


def draw_images(folder: Path, counts: dict[str, int]) -> None:
    """Save `counts[split]` images of each class below a folder, as split/class/number.png."""
    for number, split in enumerate(counts):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            for i in range(counts[split]):
                image = picture(1000 * number + i, bright=label == "cat")
                Image.fromarray(image).save(folder / split / label / f"{i:02d}.png")


def draw_truth(folder: Path) -> None:
    """Save a ground truth beside each image of `draw_images`: what is bright in it."""
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).convert("L")
        image.point(lambda grey: 255 * (grey > 89)).save(path.with_name(f"{path.stem}_mask.png"))


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit code and all that it said."""

    code: int
    said: str

    def expect(self, code: int, *words: str) -> str:
        """Check the exit code, that all words were said, and that no traceback was."""
        assert self.code == code, f"exit code {self.code}\n{self.said}"
        assert "Traceback" not in self.said, self.said
        for word in words:
            assert word in self.said, f"{word!r} is not in:\n{self.said}"
        return self.said


@dataclass(frozen=True)
class Running:
    """A command at work, in a session of its own; what it says goes to a file."""

    process: subprocess.Popen
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, happened: Callable[[], bool]) -> bool:
        """Wait for something; False when the command ends before."""
        end = time.monotonic() + SECONDS
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < end, f"it never came\n{self.said}"
            time.sleep(0.002)
        return True

    def at_work(self, stage: str) -> bool:
        """Wait until a stage is past its start-up; False when it ends before."""
        if stage not in LOADED:  # a model stage says so itself
            return self.until(lambda: "to do" in self.said)
        maps = Path(f"/proc/{self.process.pid}/maps")
        return self.until(lambda: maps.exists() and LOADED[stage] in maps.read_text())

    def signal(self, number: int) -> None:
        """Send a signal to all its processes, as a terminal sends Ctrl-C."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def wait(self) -> Done:
        """Wait for its end; one that does not end in time is killed and fails the test."""
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"it hangs\n{self.said}") from None
        return Done(code, self.said)

    def children(self) -> list[psutil.Process]:
        """Its living worker processes."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in found if "popen_loky" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []


@dataclass(frozen=True)
class Site:
    """A project folder. Its commands run with this checkout's code."""

    root: Path

    @classmethod
    def make(cls, root: Path, **changes: Any) -> Site:
        """Write params.yaml (the checkout's, made small) and prompts.yaml."""
        site = cls(root)
        (root / "data_manifests").mkdir(parents=True)
        (root / "data_manifests" / "prompts.yaml").write_text(PROMPTS)
        shutil.copy(REPO / "params.yaml", root)
        site.set(**PARAMS)
        site.set(**changes)
        return site

    @classmethod
    def added(cls, root: Path, source: Path) -> Site:
        """Make a project whose dataset is the 32 images of `draw_images(source, IMAGES)`."""
        site = cls.make(root)
        site.run("data", "add", "toy", "--from", str(source)).expect(0, "32 images")
        return site

    def set(self, **sections: Any) -> None:
        """Replace values of params.yaml; a dictionary is merged into its section."""
        path = self.root / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for name, value in sections.items():
            raw[name] = raw[name] | value if isinstance(value, dict) else value
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def copy(self, root: Path) -> Site:
        shutil.copytree(self.root, root, symlinks=True)
        return Site(root)

    def start(
        self,
        *arguments: str,
        before: Sequence[str] = (),
        program: Sequence[str] = ("-m", "pipeline"),
        first: Callable[[], None] | None = None,
        **environment: str,
    ) -> Running:
        """Start `pipeline ...` in the project folder.

        Args:
            arguments: of the command.
            before: a command that starts it, such as `setpriv ...`.
            program: what Python runs instead.
            first: called in the child before it becomes the command.
            environment: more variables.
        """
        log = self.root / f"said-{time.monotonic_ns()}.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*before, sys.executable, *program, *arguments],
                cwd=self.root,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=first,
                env=self.environment() | environment,
            )
        return Running(process, log)

    @staticmethod
    def environment() -> dict[str, str]:
        """What all commands are given."""
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, **options: Any) -> Done:
        """Run `pipeline ...` to its end; see `start`. Without options it is forked, see `warm`."""
        if options:
            return self.start(*arguments, **options).wait()
        return Done(*warm.run(arguments, root=self.root, code=REPO, environment=self.environment()))

    def start_stage(self, name: str, *arguments: str, **options: Any) -> Running:
        """Start one stage of the dataset."""
        return self.start(*stage_command(name), *arguments, **options)

    def stage(self, name: str, *arguments: str, **options: Any) -> Done:
        """Run one stage of the dataset to its end."""
        return self.run(*stage_command(name), *arguments, **options)

    def outputs(self, stage: str) -> dict[str, bytes]:
        """Return the bytes of all files that a stage wrote, by path."""
        found = {}
        for name in OUTPUTS[stage]:
            path = self.root / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    found[str(file.relative_to(self.root))] = file.read_bytes()
        return found

    def remove(self, stage: str) -> None:
        """Remove what a stage wrote."""
        for name in OUTPUTS[stage]:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def before(self, stage: str, half: Site, root: Path) -> Site:
        """Return a copy in which a stage has work to do: its store is that of `half`."""
        site = self.copy(root)
        if stage in STORES:
            store = OUTPUTS[stage][0]
            shutil.rmtree(root / store)
            shutil.copytree(half.root / store, root / store)
        return site

    def leftovers(self) -> list[str]:
        """Return lock files, half-written files and journals below cache/ and report/."""
        patterns = ("*.lock", ".*partial*", "partial-*", ".*.rebuild", ".*.replaced")
        folders = (self.root / "cache", self.root / "report")
        return sorted(str(f) for d in folders for p in patterns for f in d.rglob(p))


def stage_command(name: str) -> list[str]:
    """Return the arguments of `pipeline` for one stage of the dataset; training in two processes
    only where a test says so, since they take a second to start."""
    jobs = ["--jobs", "1"] if name in ("train", "evaluate") else []
    return [name.replace("_", "-"), "--dataset", "toy", *jobs]
