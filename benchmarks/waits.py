"""How long a user waits: for `--help`, for the first image, and for ten more in a large dataset.

    python -m benchmarks.waits                                  # help and the first image
    python -m benchmarks.waits --project DIR --dataset brain    # ten more images as well

DIR is a project whose dataset has been audited, segmented and encoded; nothing is written in it.
Each command runs in a process of its own; CPU seconds are those of all its threads and children.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.io import sha256_file
from pipeline.manifest import class_names, read_manifest, write_manifest
from pipeline.paths import Paths
from tests.project import REPO, manifest_of

NEW, STAGES = 10, ("audit", "segment", "encode")
STORES, TABLES = ("masks.zarr", "features.zarr"), ("audit.parquet", "thumbnails.npz")


def run(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run `pipeline` in a folder; return wall and CPU seconds. CalledProcessError: it failed."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        done.check_returncode()
    children = after.children_user - before.children_user
    return wall, children + after.children_system - before.children_system


def draw(rng: np.random.Generator, path: Path) -> None:
    """Write an image of noise around a bright disc, 224 x 224 grey."""
    y, x = np.mgrid[:224, :224]
    disc = np.hypot(y - rng.integers(80, 140), x - rng.integers(80, 140)) < 30
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rng.integers(0, 90, (224, 224)) + 120 * disc).astype(np.uint8)).save(path)


def first_image(folder: Path) -> Iterator[tuple[str, tuple[float, float]]]:
    """Time each command from a folder with one image to its features."""
    draw(np.random.default_rng(0), folder / "images/benign/one.png")
    shutil.copy2(REPO / "params.yaml", folder)
    (folder / "data_manifests").mkdir()
    shutil.copy2(Paths(REPO).prompts, Paths(folder).prompts)
    yield "data add, one image", run(folder, "data", "add", "breast", "--from", "images")
    for stage in STAGES[1:]:
        yield f"{stage}, one image", run(folder, stage, "--dataset", "breast")


def copy(project: Path, dataset: str, folder: Path) -> Paths:
    """Return a project beside another with its images, stores and manifest of a dataset. Files of
    stores are hard links: none is ever rewritten."""
    old, new = Paths(project), Paths(folder)
    shutil.copytree(old.data(dataset), new.data(dataset))
    truth = old.data(dataset).resolve().with_name(f"{dataset}_masks")
    if truth.is_dir():
        shutil.copytree(truth, new.data(dataset).with_name(truth.name))
    for name in STORES:
        source, target = old.cache(dataset) / name, new.cache(dataset) / name
        shutil.copytree(source, target, copy_function=os.link)
    for name in TABLES:
        shutil.copy2(old.cache(dataset) / name, new.cache(dataset))
    new.prompts.parent.mkdir()
    shutil.copy2(old.manifest(dataset), new.manifest(dataset))
    shutil.copy2(old.prompts, new.prompts)
    shutil.copy2(project / "params.yaml", folder)
    return new


def add_rows(paths: Paths, dataset: str, n: int) -> None:
    """Draw new images and append their rows to the manifest."""
    path, rng = paths.manifest(dataset), np.random.default_rng(1)
    table, names = read_manifest(path), [f"added/{number}.png" for number in range(n)]
    files = [paths.data(dataset) / name for name in names]
    for file in files:
        draw(rng, file)
    columns = {"label": class_names(table)[0], "split": "train", "synthetic": "0"}
    columns |= {"sha256": [sha256_file(file) for file in files], "width": "224", "height": "224"}
    write_manifest(pd.concat([table, manifest_of(names, **columns)]), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path)
    parser.add_argument("--dataset", default="brain")
    parser.add_argument("--repeats", type=int, default=3, help="of --help")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.project and args.project.parent) as temporary:
        folder = Path(temporary)
        print("| command | wall, s | CPU, s |\n|---|---|---|")

        def show(what: str, seconds: Sequence[float]) -> None:
            print(f"| {what} | {seconds[0]:.2f} | {seconds[1]:.2f} |", flush=True)

        helped = [run(folder, "--help") for _ in range(args.repeats)]
        show("--help", [median(of) for of in zip(*helped, strict=True)])
        (folder / "first").mkdir()
        for one in first_image(folder / "first"):
            show(*one)
        if args.project is None:
            return
        paths = copy(args.project, args.dataset, folder / "more")
        rows = len(read_manifest(paths.manifest(args.dataset)))
        for new in (0, NEW):
            add_rows(paths, args.dataset, new)
            for stage in STAGES:
                command = stage, "--dataset", args.dataset
                show(f"{stage}, {rows:,} rows, {new} more", run(paths.root, *command))


if __name__ == "__main__":
    main()
