"""How to make this page again: commit, commands, parameters, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline.config import Params
from pipeline.report.page import Code, Details, Heading, Points, Section, Text
from pipeline.report.tables import Table, head

LIBRARIES = ("numpy", "pandas", "scikit-learn", "scikit-image", "zarr", "xarray")
LIBRARIES += ("torch", "sam2", "open_clip_torch", "timm")
DECIDING = ("pipeline", "stages", "params.yaml", "dvc.yaml", "data_manifests/prompts.yaml")
DIFFERS = "Some runs behind the figures were given other parameters than those below:"
STEPS = ("audit", "segment", "prompt-quality", "encode", "train", "evaluate")


def reproduce(
    params: Params, root: Path, datasets: list[str], differs: Sequence[str] = ()
) -> Section:
    """Build the last section of the page; `differs` are the lines of `differing`."""
    names = " ".join(f"--dataset {name}" for name in datasets)
    commands = [f"pipeline {step} --dataset {name}" for name in datasets for step in STEPS]
    blocks = [
        Text("This page was made by"),
        Code(f"pipeline report {names}"),
        Text("from what these commands leave in cache/ (dvc repro runs what is out of date):"),
        Code("\n".join(commands)),
        Table(
            ["what", "version"],
            [
                [head("git commit"), git_commit(root)],
                [head("Python"), platform.python_version()],
                *([head(name), version(name)] for name in ("medfocusclip", *LIBRARIES)),
            ],
            caption="Versions at the time of this page (each stage's own: its record, above)",
            sortable=False,
        ),
        Heading("Parameters"),
        *([Text(DIFFERS, "warning"), Points(list(differs))] if differs else []),
        Details("All parameters (params.yaml)", [Code(parameters_text(params))]),
    ]
    return Section("reproduce", "How this page was made", blocks, id="reproduce")


def parameters_text(params: Params) -> str:
    """Return the parameters as YAML, under the names that params.yaml uses."""
    values = params.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def git_commit(root: Path) -> str:
    """Return the commit of the project folder, marked when what decides figures differs from it.

    These are the files of `DECIDING` that git knows. Others do not count: each run writes dvc.lock
    and results/ anew, and manifests are told by their hashes.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return f"{commit}, with local changes" if changed else commit


def version(name: str) -> str:
    """Return an installed package's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
