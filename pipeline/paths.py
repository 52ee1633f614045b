"""Where everything lies: one place for every file name of a project folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files of a project folder.

    Args:
        root: the project folder (the one with params.yaml).
        data_root: folder of the images, one folder or link per dataset, relative to `root`.
            The environment variable PIPELINE_DATA_ROOT overrides it.
    """

    root: Path = Path(".")
    data_root: str = "data"

    def data(self, dataset: str) -> Path:
        """The images, read only."""
        base = os.environ.get("PIPELINE_DATA_ROOT") or self.data_root
        return Path(self.root) / base / dataset

    def manifest(self, dataset: str) -> Path:
        """The dataset's images, one a row."""
        return self.root / "data_manifests" / f"{dataset}.csv"

    def datasets(self) -> list[str]:
        """Names of the datasets that have a manifest, sorted."""
        return sorted(file.stem for file in self.manifest("x").parent.glob("[!.]*.csv"))

    @property
    def prompts(self) -> Path:
        """The words of every class."""
        return self.root / "data_manifests" / "prompts.yaml"

    @property
    def report(self) -> Path:
        """The page that `pipeline report` writes."""
        return self.root / "report" / "index.html"

    @property
    def results(self) -> Path:
        """What `pipeline results` writes."""
        return self.root / "results"

    def cache(self, dataset: str) -> Path:
        """Everything computed of a dataset; may be deleted."""
        return self.root / "cache" / dataset

    def audit(self, dataset: str) -> Path:
        """One row an image: its groups of copies, its flags."""
        return self.cache(dataset) / "audit.parquet"

    def audit_pairs(self, dataset: str) -> Path:
        """Pairs of copies."""
        return self.cache(dataset) / "audit_pairs.parquet"

    def audit_summary(self, dataset: str) -> Path:
        """The audit's counts."""
        return self.cache(dataset) / "audit.json"

    def thumbnails(self, dataset: str) -> Path:
        """What the audit compares, kept from run to run."""
        return self.cache(dataset) / "thumbnails.npz"

    def masks(self, dataset: str) -> Path:
        """Stage 1, the mask store."""
        return self.cache(dataset) / "masks.zarr"

    def features(self, dataset: str) -> Path:
        """Stage 2, the feature store."""
        return self.cache(dataset) / "features.zarr"

    def run(self, dataset: str, learner: str) -> Path:
        """Folder of a learner's runs: fitted learners, runs and predictions."""
        return self.cache(dataset) / "runs" / learner

    def run_table(self, dataset: str, learner: str) -> Path:
        """One row for each fit of a learner: its seed, labels, status, and what it chose."""
        return self.run(dataset, learner) / "runs.parquet"

    def predictions(self, dataset: str, learner: str) -> Path:
        """One row for each fit of a learner and test image."""
        return self.run(dataset, learner) / "predictions.parquet"

    def metrics(self, dataset: str) -> Path:
        """The headline figures, for `dvc metrics`."""
        return self.cache(dataset) / "metrics.json"

    def metrics_table(self, dataset: str) -> Path:
        """Every metric with its interval."""
        return self.cache(dataset) / "metrics.parquet"

    def mask_quality(self, dataset: str) -> Path:
        """Masks against ground truth."""
        return self.cache(dataset) / "mask_quality.parquet"

    def prompt_quality(self, dataset: str) -> Path:
        """Every prompt strategy against ground truth."""
        return self.cache(dataset) / "prompt_quality.parquet"

    def plots(self, dataset: str) -> Path:
        """Tables that `dvc plots` draws."""
        return self.cache(dataset) / "plots"

    def record(self, dataset: str, stage: str) -> Path:
        """The record of a stage's last run."""
        return self.cache(dataset) / "records" / f"{stage}.json"
