"""Today's code gives the numbers that were frozen in this folder by an earlier version.

`make.py` computes them anew: hashes of decoded images, masks and features to the bit, splits and
copies by image, predictions to 1e-6, metrics to 1e-9. A change that is meant to alter a number
runs `python -m tests.golden.make ../shared tests/golden` and says so in its commit.
The same project shows that real images go through every command whole.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import open_features, open_masks
from pipeline.errors import ImageError
from pipeline.images import read_image, read_mask
from tests.site import Site

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


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The project of `computed`: two sets of real images after every command."""
    return Site(tmp_path_factory.mktemp("real") / "site")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, real: Site, shared: Path) -> Path:
    """The folder of the numbers as today's code computes them."""
    out = tmp_path_factory.mktemp("golden")
    make.make(real, shared, out)
    return out


@pytest.fixture(scope="module")
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


PIXELS = "Every file is decoded to the same pixels as by earlier versions."


@pytest.mark.promise(PIXELS)
def test_every_image_and_mask_is_decoded_to_the_same_bytes(computed: Path) -> None:
    frozen = load(GOLDEN, "reader")
    assert len(frozen) > 500
    assert not differing(frozen, load(computed, "reader"))


@pytest.mark.promise(PIXELS)
@pytest.mark.filterwarnings("ignore")
def test_drawn_files_of_every_format_are_decoded_as_before(tmp_path: Path) -> None:
    """`files.tar.xz` holds 165 files of the reader's tests, with and without faults; `files.json`
    the hash of what it gave for each frame, or the name of the error."""
    with tarfile.open(GOLDEN / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    frozen, now = load(GOLDEN, "files"), {}
    for key in frozen:
        name, kind, frame = key.split()
        read = {"image": read_image, "mask": read_mask}[kind]
        try:
            now[key] = make.array_hash(read(tmp_path / name, int(frame)))
        except ImageError as error:
            now[key] = type(error).__name__
    assert len(list(tmp_path.iterdir())) == 165
    assert not differing(frozen, now)


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


REAL = ("brain", "breast")
WHOLE = "Real images go through every command whole, each with its own label, part and size."


@pytest.mark.promise(WHOLE)
@pytest.mark.parametrize("dataset", REAL)
def test_both_stores_hold_every_image_whole_at_its_own_size(
    computed: Path, real: Site, dataset: str
) -> None:
    rows = {row["image_id"]: row for row in real.rows(dataset)}
    cache = real.root / "cache" / dataset
    stores = [str(cache / f"{name}.zarr") for name in ("masks", "features")]
    assert real.run("pipeline", "verify", *stores).count("ok: 60 rows, 0 lost") == 2
    table = open_features(stores[1]).table()
    assert {i: (r["label"], r["split"]) for i, r in rows.items()} == {
        i: (r["label"], r["split"]) for i, r in table.iterrows()
    }
    masks = open_masks(stores[0])
    for image_id, row in rows.items():
        with Image.open(real.root / "scans" / dataset / row["path"]) as image:
            assert masks[image_id].shape == image.size[::-1]
    quality = pd.read_parquet(cache / "mask_quality.parquet")
    dice = quality.groupby("strategy")["dice"].mean()
    (strategy,) = set(dice.index) - {"ellipse", "random"}
    assert dice[strategy] > dice["ellipse"] > dice["random"]


@pytest.mark.promise("A store names its models, checkpoints, versions and prompts.")
def test_the_attributes_name_models_checkpoints_versions_and_prompts(
    computed: Path, real: Site
) -> None:
    cache = real.root / "cache/brain"
    masks, features = open_masks(cache / "masks.zarr"), open_features(cache / "features.zarr")
    for store, name in ((masks, "sam2"), (features, "open_clip")):
        model = store.identity["model"]["fingerprint"]
        assert len(model["checkpoint_sha256"]) == 64 and model[name]
        assert store.identity["reader"]["version"] and store.identity["mapper_version"]
    assert set(features.attrs["prompts"]) == {row["label"] for row in real.rows("brain")}


@pytest.mark.promise("Phantoms are called synthetic wherever they are shown, real images never.")
def test_the_report_of_real_images_calls_none_of_them_synthetic(computed: Path, real: Site) -> None:
    real.params(datasets=list(REAL))
    real.run("pipeline", "report")
    page = (real.root / "report/index.html").read_text(encoding="utf-8").lower()
    assert all(dataset in page for dataset in REAL)
    assert "synthetic" not in page
