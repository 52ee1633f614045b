"""Where everything lies: one place for every file name of a project folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.remote import as_path, is_url


def _cached(name: str) -> Callable[..., Path]:
    """Return the method that gives a path in the cache of a dataset; what it is called with besides
    the dataset takes the place of each {}."""
    return lambda self, dataset, *names: self.cache(dataset) / name.format(*names)


def _of_project(name: str) -> property:
    """Return the property that gives a path in the project folder."""
    return property(lambda self: self.root / name)


def _below(root: Path, folder: str) -> Path:
    """Return a folder that params.yaml names, relative to `root`, or a URL."""
    return as_path(folder) if is_url(folder) else root / folder


@dataclass(frozen=True)
class Paths:
    """The files of a project folder.

    Args:
        root: the project folder (the one with params.yaml).
        data_root: folder of the images, one folder or link per dataset, relative to `root`, or a
            URL such as s3://bucket/images. The environment variable PIPELINE_DATA_ROOT overrides
            it.
        store_root: folder of masks and features, one folder per dataset, relative to `root`, or a
            URL. All else that is computed is in cache/.
    """

    root: Path = Path(".")
    data_root: str = "data"
    store_root: str = "cache"

    def data(self, dataset: str) -> Path:
        """The images, read only."""
        return _below(self.root, os.environ.get("PIPELINE_DATA_ROOT") or self.data_root) / dataset

    def fetched(self, url: Path | None = None) -> Path:
        """The copy of what is at a URL, which `data add` reads; None: the folder of all copies."""
        images = self.data("x").parent
        top = (self.root / Paths.data_root if is_url(images) else images) / ".fetched"
        return top if url is None else top / url.protocol / url.path.strip("/")

    def manifest(self, dataset: str) -> Path:
        """The dataset's images, one per row."""
        return self.root / "data_manifests" / f"{dataset}.csv"

    def datasets(self) -> list[str]:
        """Names of the datasets that have a manifest, sorted."""
        return sorted(file.stem for file in self.manifest("x").parent.glob("[!.]*.csv"))

    prompts = _of_project("data_manifests/prompts.yaml")
    """The words of every class."""
    report = _of_project("report/index.html")
    """The page that `pipeline report` writes."""
    ablations = _of_project("cache/ablations.csv")
    """What `pipeline ablate` writes; it belongs to no dataset."""
    results = _of_project("results")
    """What `pipeline results` writes."""

    def cache(self, dataset: str) -> Path:
        """Everything computed of a dataset; may be deleted."""
        return self.root / "cache" / dataset

    audit = _cached("audit.parquet")
    """One row per image: its groups of copies, its flags."""
    audit_pairs = _cached("audit_pairs.parquet")
    """Pairs of copies."""
    audit_summary = _cached("audit.json")
    """The audit's counts."""
    files = _cached("files.json")
    """Digests of the bytes of all images and ground-truth masks, for DVC."""
    hashes = _cached("hashes.json")
    """The SHA-256 of each file by its size and times (`FileHashes`), kept from run to run."""
    thumbnails = _cached("thumbnails.npz")
    """What the audit compares, kept from run to run."""
    reviewed = _cached("reviewed")
    """Corrections by hand, one file per image: the one folder that nothing can compute again."""
    pixels = _cached("pixels")
    """Frames of the views, for learners that train on pixels."""
    metrics = _cached("metrics.json")
    """The headline figures, for `dvc metrics`."""
    metrics_table = _cached("metrics.parquet")
    """Every metric with its interval."""
    mask_quality = _cached("mask_quality.parquet")
    """Masks against ground truth."""
    prompt_quality = _cached("prompt_quality.parquet")
    """Every prompt strategy against ground truth."""
    compare = _cached("compare.parquet")
    """Every row of the study with its differences."""
    plots = _cached("plots")
    """Tables that `dvc plots` draws."""
    adapter = _cached("adapters/{}")
    """Folder of the adapters of a variant of the masks."""
    run = _cached("runs/{}")
    """Folder of a learner's runs: fitted learners, runs and predictions."""
    seconds = _cached("seconds/{}.json")
    """The seconds of each fit of a learner by its digest."""
    record = _cached("records/{}.json")
    """The record of a stage's last run."""

    def stores(self, dataset: str) -> Path:
        """The folder, or URL, of the stores of a dataset."""
        if self.store_root == Paths.store_root:
            return self.cache(dataset)
        return _below(self.root, self.store_root) / dataset

    def candidates(self, dataset: str) -> Path:
        """What SAM2 proposed for each image, kept by some strategies."""
        return self.stores(dataset) / "candidates.zarr"

    def embeddings(self, dataset: str) -> Path:
        """SAM2's embedding of each image, kept if `segment.embeddings` says so."""
        return self.stores(dataset) / "embeddings.zarr"

    def masks(self, dataset: str, variant: str = "") -> Path:
        """Stage 1, the mask store; of a variant and part (`lora-16/0`) a store of its own."""
        return self.stores(dataset) / (f"masks/{variant}.zarr" if variant else "masks.zarr")

    def features(self, dataset: str, variant: str = "") -> Path:
        """Stage 2, the feature store; of a variant of the masks a store of its own."""
        return self.stores(dataset) / (f"features/{variant}.zarr" if variant else "features.zarr")

    def run_table(self, dataset: str, learner: str) -> Path:
        """One row per run of a learner: its seed, labels, status, and what it chose."""
        return self.run(dataset, learner) / "runs.parquet"

    def predictions(self, dataset: str, learner: str) -> Path:
        """One row for each fit of a learner and test image."""
        return self.run(dataset, learner) / "predictions.parquet"


class QuickPaths(Paths):
    """A project whose runs and comparison are those of `compare --quick`, beside the full ones."""

    compare = _cached("quick/compare.parquet")
    plots = _cached("quick")
    run = _cached("quick/runs/{}")
    seconds = _cached("quick/seconds/{}.json")
    record = _cached("quick/records/{}.json")
