"""A project folder made on the spot: images, a manifest, prompts."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from examples.demo import small_params
from pipeline.cli.app import app
from pipeline.cli.common import guarded
from pipeline.config import Params, load_params
from pipeline.io import sha256_file
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths

DATASET = "toy"
REPO = Path(__file__).resolve().parent.parent


def in_process(root: Path, *arguments: str) -> tuple[int, str]:
    """Do what `pipeline` does in this process: for commands that end before a model is loaded. An
    unforeseen error is raised."""
    said = io.StringIO()
    with (
        contextlib.chdir(root),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        mock.patch.object(sys, "argv", ["pipeline", *arguments]),
        mock.patch.object(logging.root, "handlers", []),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        pytest.raises(SystemExit) as ended,
    ):
        guarded(app)
    return ended.value.code, said.getvalue()


def small() -> dict[str, Any]:
    """Return the values, by dotted key, with which params.yaml has the small study of the tests."""
    values = yaml.safe_load((REPO / "tests/small.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key != "train.seeds"}


def write_params(root: Path, **changed: object) -> None:
    """Write params.yaml of a project: the small study of the tests, with some values changed, as
    in `write_params(root, segment__prompt="full")`."""
    given = {name.replace("__", "."): value for name, value in changed.items()}
    raw = small_params(REPO / "tests/small.yaml", **given)
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def manifest_of(ids: Sequence[str], **columns: object) -> pd.DataFrame:
    """Return a valid manifest of phantoms that need not exist, with columns of other values."""
    frame = pd.DataFrame({name: [""] * len(ids) for name in COLUMNS})
    values = {"image_id": list(ids), "path": list(ids), "frame": "0", "label": "a"}
    values |= {"sha256": [f"{i:064x}" for i in range(len(ids))], "synthetic": "1"}
    return frame.assign(**values | {"width": "32", "height": "32"} | columns)


class Project:
    """A dataset called "toy" below a folder.

    Args:
        root: the project folder.
    """

    def __init__(self, root: Path):
        self.paths = Paths(root)
        self.rows: list[dict] = []
        self.prompts("a photo of {}.")

    def prompts(self, *templates: str) -> None:
        """Write prompts.yaml."""
        self.paths.prompts.parent.mkdir(exist_ok=True, parents=True)
        self.paths.prompts.write_text(
            f"templates: {{default: {list(templates)!r}}}\n"
            f"classes: {{{DATASET}: {{cat: a cat, dog: a dog}}}}\n"
            "regions: {default: {object: [a bright ellipse], background: [grey noise]}}\n"
        )

    def file(self, name: str) -> Path:
        """A file of the dataset."""
        path = self.paths.data(DATASET) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(
        self, name: str, image: np.ndarray, mask: np.ndarray | None = None, **columns: str
    ) -> str:
        """Save an image (and its ground truth) and list it; returns its id."""
        self.rows.append(self.make_row(name, image, mask, **columns))
        self.write()
        return name

    def make_row(
        self, name: str, image: np.ndarray, mask: np.ndarray | None = None, **columns: str
    ) -> dict:
        """Save an image (and its ground truth); returns its row of the manifest."""
        Image.fromarray(image).save(self.file(name))
        mask_path = ""
        if mask is not None:
            mask_path = f"masks/{name}"
            Image.fromarray(mask.astype(np.uint8) * 255).save(self.file(mask_path))
        row = {
            **dict.fromkeys(COLUMNS, ""),
            "image_id": name,
            "path": name,
            "frame": 0,
            "label": "cat",
            "split": "train",
            "sha256": sha256_file(self.file(name)),
            "height": image.shape[0],
            "width": image.shape[1],
            "mask_path": mask_path,
            "synthetic": "0",
        }
        return row | columns

    def row(self, image_id: str) -> dict:
        """A row of the manifest, to be changed; call `write` afterwards."""
        return next(row for row in self.rows if row["image_id"] == image_id)

    def write(self) -> None:
        """Write the manifest."""
        write_manifest(pd.DataFrame(self.rows), self.paths.manifest(DATASET))

    def params(self, **changed: object) -> Params:
        """params.yaml with some values changed: `params(segment__prompt="full")`."""
        overrides = {name.replace("__", "."): value for name, value in changed.items()}
        return load_params(REPO / "params.yaml", small() | overrides)
