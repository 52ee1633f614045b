"""Today's code gives the numbers that were frozen in this folder by an earlier version.

`make.py` computes them anew: hashes of decoded images, masks and features to the bit, splits and
copies by image, predictions to 1e-6, metrics to 1e-9. A change that is meant to alter a number
runs `python tests/golden/make.py ../shared tests/golden` and says so in its commit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from . import make

GOLDEN = Path(__file__).resolve().parent
TOLERANCE = {
    "predictions": 1e-6,
    "metrics": 1e-9,
    "comparisons": 2e-6,
    "mask_quality": 1e-9,
    "prompt_quality": 1e-9,
}
"""Largest difference of a number by table; comparisons are written with six digits."""


@pytest.fixture(scope="session")
def computed(tmp_path_factory: pytest.TempPathFactory, repo: Path, shared: Path) -> Path:
    """The folder of the numbers as today's code computes them."""
    out, project = (tmp_path_factory.mktemp(name) for name in ("golden", "project"))
    done = subprocess.run(
        [sys.executable, str(GOLDEN / "make.py"), str(shared), str(out), str(project)],
        env=os.environ | {"PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out


@pytest.fixture(scope="session")
def same_machine() -> None:
    """Skip where floats may differ in their last bits."""
    frozen, here = load(GOLDEN, "machine"), make.machine()
    if frozen != here:
        pytest.skip(f"the golden numbers were made on {frozen}, this is {here}")


def load(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def differing(frozen: dict, now: dict) -> dict[str, tuple]:
    """Return key -> (frozen, now) where they differ."""
    keys = frozen.keys() | now.keys()
    return {k: (frozen.get(k), now.get(k)) for k in keys if frozen.get(k) != now.get(k)}


@pytest.mark.promise("Every file is decoded to the same pixels as by earlier versions.")
def test_every_image_and_mask_is_decoded_to_the_same_bytes(computed: Path) -> None:
    frozen = load(GOLDEN, "reader")
    assert len(frozen) > 1500
    assert not differing(frozen, load(computed, "reader"))


SAME = "The same images, seeds and parameters give the same numbers as earlier versions gave."


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("dataset", make.DATASETS)
@pytest.mark.parametrize("part", ["manifest", "audit", "splits"])
def test_manifest_copies_and_splits_are_the_same(computed: Path, dataset: str, part: str) -> None:
    assert not differing(load(GOLDEN, dataset)[part], load(computed, dataset)[part])


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("dataset", make.DATASETS)
def test_masks_and_features_are_the_same_to_the_bit(
    computed: Path, dataset: str, same_machine: None
) -> None:
    frozen, now = load(GOLDEN, dataset), load(computed, dataset)
    assert not differing(frozen["masks"], now["masks"])
    assert not differing(frozen["text"], now["text"])
    assert frozen["features"].keys() == now["features"].keys()
    for view, vectors in frozen["features"].items():
        assert not differing(vectors, now["features"][view]), view


@pytest.mark.promise(SAME)
@pytest.mark.parametrize("dataset", make.DATASETS)
@pytest.mark.parametrize("name", TOLERANCE)
def test_predictions_and_metrics_are_the_same(
    computed: Path, dataset: str, name: str, same_machine: None
) -> None:
    frozen, now = (pd.read_parquet(f / f"{dataset}.{name}.parquet") for f in (GOLDEN, computed))
    numbers = [c for c in frozen if frozen[c].dtype.kind == "f" and c != "fraction"]
    keys = [c for c in frozen if c not in numbers]
    assert set(frozen.columns) <= set(now.columns)
    frozen, now = (t.round({"fraction": 6}).set_index(keys)[numbers] for t in (frozen, now))
    assert not now.index.duplicated().any()
    missing = frozen.index.difference(now.index)
    assert not len(missing), missing[:5].tolist()
    now = now.loc[frozen.index]
    for column in numbers:
        a, b = (t[column].to_numpy("float64") for t in (frozen, now))
        assert (np.isnan(a) == np.isnan(b)).all(), column
        worst = np.nanmax(np.abs(a - b), initial=0.0)
        assert worst <= TOLERANCE[name], f"{column} differs by {worst}"
