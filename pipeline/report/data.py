"""What the report reads of one dataset: tables, stores and records, each present or named.

The report computes no statistics: figures, intervals and differences are those of `evaluate`.
A table that is missing, or that was made from other inputs than the ones on disk, is not shown;
it is listed in `Dataset.missing` with the command that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline.config import Params
from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.evaluate.compare import verdict
from pipeline.evaluate.images import by_image, true_probability
from pipeline.evaluate.pairing import is_beside
from pipeline.evaluate.predictions import relabelled
from pipeline.evaluate.test_sets import image_units
from pipeline.io import sha256_file
from pipeline.manifest import read_manifest
from pipeline.models.seen import DIGITS, trained_on
from pipeline.paths import Paths
from pipeline.report import words
from pipeline.report.paper import quoted
from pipeline.training.pairing import of_features, paired, trained

Run = tuple[str, str]
"""A learner and a view."""
Block = tuple[str, str]
"""A protocol and a subset of its test images."""

STAGES = ("add", "audit", "segment", "prompt_quality", "encode", "train", "evaluate")
PUBLISHED, GROUPED = ("official", "full"), ("grouped", "full")
CLEAN, CLEAN_ANY = ("official", "clean"), ("official", "clean_any")
STRICTEST = (GROUPED, CLEAN_ANY, CLEAN, PUBLISHED)
"""Where the headline is read: the first of these that was evaluated."""
TRUTH = (("grouped_truth", "full"), ("ground_truth", "full"))
"""The protocols on images with a ground-truth mask, the strictest first."""
BLOCKS = (
    *STRICTEST,
    ("grouped-pooled", "full"),
    *TRUTH,
    ("ground_truth", "clean"),
    ("ground_truth", "clean_any"),
    ("grouped_truth-pooled", "full"),
)
ORACLE = "oracle"


class Missing(NamedTuple):
    """A file that cannot be shown, why, and the command that makes it."""

    part: str
    path: str
    reason: str
    command: str


class Estimate(NamedTuple):
    """A metric over all seeds with its interval.

    `reweighted` is the accuracy on the full test part with each class weighted by its share of a
    subset: what the subset's classes alone explain of a difference.
    """

    value: float
    lo: float
    hi: float
    n_labels: int
    n_images: int
    note: str
    reweighted: float


class Difference(NamedTuple):
    """A paired difference of two runs in accuracy, its interval, Holm's p, and the verdict."""

    value: float
    lo: float
    hi: float
    p_holm: float
    verdict: str


class Copies(NamedTuple):
    """Test images of the set's own split, and how many have a copy in train.

    `plain` counts exact copies and near copies, `all` also mirrored and rotated ones.
    """

    test: int
    plain: int
    all: int


class Seen(NamedTuple):
    """Images that a model's weights were trained on.

    Attributes:
        model: its name.
        images: how many of the dataset's.
        parts: {part of the split: images}.
        patients: test images that it did not see, of a patient of whom it saw another image.
        test: test images.
    """

    model: str
    images: int
    parts: dict[str, int]
    patients: int
    test: int


@dataclass
class Dataset:
    """The inputs of one dataset's part of the page; a table is None where it cannot be shown.

    Attributes:
        masks, features: the opened stores.
        records: the run record of each stage that ran.
        missing: what is not shown, and the command that makes it.
    """

    name: str
    paths: Paths
    params: Params
    manifest: pd.DataFrame | None = None
    audit: dict[str, Any] | None = None
    copies: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    masks: Any = None
    features: Any = None
    runs: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None
    comparisons: pd.DataFrame | None = None
    per_class: pd.DataFrame | None = None
    confusion: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None
    test_sets: pd.DataFrame | None = None
    mask_quality: pd.DataFrame | None = None
    mask_summary: pd.DataFrame | None = None
    prompt_quality: pd.DataFrame | None = None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    sources: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """The file of each part and the stage that makes it."""

    @property
    def synthetic(self) -> bool:
        """Whether any image of the manifest is labelled synthetic."""
        return self.manifest is not None and bool((self.manifest["synthetic"] == "1").any())

    @property
    def drawn_split(self) -> bool:
        """Whether the set has no test part of its own, so that `train` drew one."""
        return self.manifest is not None and not (self.manifest["split"] == "test").any()

    @property
    def audited(self) -> bool:
        """Whether copies are known, now and when the splits were drawn."""
        return self.copies is not None and not any("no leak audit" in n for n in self.notes)

    @property
    def notes(self) -> list[str]:
        """What the plan of the splits noted, as `train` recorded it."""
        parameters = self.records.get("train", {}).get("parameters") or {}
        return [str(note) for note in parameters.get("notes") or []]

    @property
    def classes(self) -> list[str]:
        """The labels of the manifest, sorted."""
        return [] if self.manifest is None else sorted(self.manifest["label"].unique())

    @property
    def quoted(self) -> dict[str, dict[float, float]]:
        """The paper's figures for this dataset; none for synthetic images, whatever their name."""
        return {} if self.synthetic else quoted(self.name)

    @cached_property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest's bytes; "" where there is none."""
        path = self.paths.manifest(self.name)
        return sha256_file(path) if path.is_file() else ""

    @cached_property
    def estimates(self) -> dict[tuple[Block, str], dict[Run, dict[float, Estimate]]]:
        """{(block, metric): {run: {fraction: estimate}}}, over all seeds."""
        found: dict = {}
        if self.metrics is None:
            return found
        for r in self.metrics[self.metrics["seed"] == -1].itertuples(index=False):
            runs = found.setdefault(((r.protocol, r.subset), r.metric), {})
            note = r.note if isinstance(r.note, str) else ""
            runs.setdefault((r.learner, r.view), {})[round(float(r.fraction), 4)] = Estimate(
                float(r.value), float(r.lo), float(r.hi), r.n_labels, r.n_images, note,
                float(getattr(r, "reweighted", np.nan)),
            )  # fmt: skip
        return found

    @cached_property
    def differences(self) -> dict[tuple[Block, Run, Run], dict[float, Difference]]:
        """{(block, run a, run b): {fraction: a - b}} of accuracy, both ways round."""
        found: dict = {}
        if self.comparisons is None:
            return found
        table = self.comparisons
        for r in table[table["metric"] == "accuracy"].itertuples(index=False):
            a, b = (r.learner_a, r.view_a), (r.learner_b, r.view_b)
            for first, second, sign in ((a, b, 1), (b, a, -1)):
                lo, hi = sorted((sign * r.lo, sign * r.hi))
                by = found.setdefault(((r.protocol, r.subset), first, second), {})
                by[round(float(r.fraction), 4)] = Difference(
                    sign * r.difference, lo, hi, r.p_holm, verdict(lo, hi, r.p_holm)
                )
        return found

    def accuracy(self, block: Block) -> dict[Run, dict[float, Estimate]]:
        """Return {run: {fraction: accuracy}} of a block; empty where it was not evaluated."""
        return self.estimates.get((block, "accuracy"), {})

    @cached_property
    def tested(self) -> dict[Block, Any]:
        """The row of each block in plots/test_sets.csv: sizes, classes, the largest class."""
        if self.test_sets is None:
            return {}
        return {(r.protocol, r.subset): r for r in self.test_sets.itertuples(index=False)}

    @cached_property
    def blocks(self) -> list[Block]:
        """The evaluated blocks, the strictest first, without subsets that leave out no image."""
        have = {block for block, metric in self.estimates if metric == "accuracy"}
        kept: list[Block] = []
        seen: set[tuple[str, int]] = set()
        known = [b for b in BLOCKS if b in have] + sorted(have - set(BLOCKS))
        for block in sorted(known, key=lambda b: b[1] != "full"):
            size = block[0], self.tested[block].n_images if block in self.tested else len(kept)
            if size not in seen:
                kept.append(block)
            seen.add(size)
        return [b for b in known if b in kept]

    @property
    def headline(self) -> Block | None:
        """The strictest block that holds the study's baseline."""
        baseline = self.params.study.baseline.key
        return next(
            (b for b in STRICTEST if b in self.blocks and baseline in self.accuracy(b)), None
        )

    def fractions(self, block: Block) -> list[float]:
        """Return the shares of the labels of a block, rising (0 is zero-shot's and left out)."""
        return sorted({f for by in self.accuracy(block).values() for f in by if f > 0})

    def cases(self, protocol: str, run: Run, fraction: float) -> pd.DataFrame | None:
        """Summarise the predictions of one run by image (`by_image`); None without predictions."""
        rows = self._predicted(protocol, run, fraction)
        return None if rows is None else by_image(rows)

    def cell_images(self, protocol: str, run: Run, fraction: float) -> dict[tuple[str, str], list]:
        """Return {(true, predicted class): [(image_id, seeds, p_true)]}, most seeds first."""
        rows = self._predicted(protocol, run, fraction)
        if rows is None:
            return {}
        rows = rows.assign(p_true=true_probability(rows))
        table = rows.groupby(["y_true", "y_pred", "image_id"], observed=True)["p_true"]
        table = table.agg(["size", "mean"]).reset_index()
        table = table.sort_values(["size", "image_id"], ascending=[False, True])
        return {
            key: list(part[["image_id", "size", "mean"]].itertuples(index=False, name=None))
            for key, part in table.groupby(["y_true", "y_pred"], observed=True)
        }

    def seeds(self, protocol: str, run: Run, fraction: float) -> int:
        """Return how many seeds of a run were predicted."""
        metrics = self.metrics
        if metrics is None:
            return 0
        t = metrics[(metrics["protocol"] == protocol) & (metrics["metric"] == "accuracy")]
        t = t[(t["learner"] == run[0]) & (t["view"] == run[1]) & (t["seed"] >= 0)]
        return t.loc[abs(t["fraction"] - fraction) < 1e-4, "seed"].nunique()

    def _predicted(self, protocol: str, run: Run, fraction: float) -> pd.DataFrame | None:
        if self.predictions is None:
            return None
        t = self.predictions
        chosen = (t["protocol"] == protocol) & (t["learner"] == run[0]) & (t["view"] == run[1])
        rows = t[chosen & (abs(t["fraction"] - fraction) < 1e-4)]
        names = dict.fromkeys(("image_id", "y_true", "y_pred"), str)
        return None if rows.empty else rows.astype(names)

    @cached_property
    def units(self) -> dict[str, str]:
        """What is resampled together: the unit of each image id."""
        return {} if self.manifest is None else image_units(self.manifest, self.copies)

    def mask_figures(self, strategy: str, split: str = "all", label: str = "") -> Any | None:
        """Return a row of plots/mask_summary.csv: Dice, IoU and HD95 with intervals."""
        table = self.mask_summary
        if table is None or table.empty:
            return None
        chosen = (table["strategy"] == strategy) & (table["split"] == split)
        rows = table[chosen & (table["label"].fillna("") == label)]
        return None if rows.empty else next(rows.itertuples(index=False))

    @cached_property
    def test_copies(self) -> Copies | None:
        """Test images with a copy in train; None without an audit or a test part."""
        if self.copies is None or self.drawn_split:
            return None
        test = self.copies[self.copies["split"] == "test"]
        columns = ("copy_in_train", "copy_in_train_any")
        return Copies(len(test), *(int(test[column].sum()) for column in columns))

    @cached_property
    def seen(self) -> Seen | None:
        """How many images of the dataset SAM2's weights were trained on; None where no one is."""
        if self.masks is None or self.manifest is None:
            return None
        model = self.masks.identity.get("model")
        fingerprint = model["fingerprint"] if isinstance(model, dict) else {}
        table = self.manifest
        hashes = trained_on(fingerprint.get("checkpoint_sha256", ""))
        seen = table["sha256"].str[:DIGITS].isin(hashes)
        if not seen.any():
            return None
        parts = {str(k): int(n) for k, n in table["split"][seen].value_counts().items()}
        patients = set(table["patient_id"][seen]) - {""}
        test = table["split"] == "test"
        shared = int((test & ~seen & table["patient_id"].isin(patients)).sum())
        name = fingerprint.get("name", "SAM2")
        return Seen(name, int(seen.sum()), parts, shared, int(test.sum()))

    @cached_property
    def mask_status(self) -> dict[str, str]:
        """The status of each mask by image_id: ok, empty, full or failed."""
        return {} if self.masks is None else self.in_manifest(self.masks)["status"].to_dict()

    def in_manifest(self, store: Any) -> pd.DataFrame:
        """Return a store's index without the images that have left the manifest."""
        table = store.table()
        return table[table["in_manifest"]] if "in_manifest" in table else table

    def omit(self, part: str, path: Path, reason: str, command: str) -> None:
        """Show nothing of a part, and list it as missing."""
        setattr(self, part, None)
        root = Path(self.paths.root)
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        self.missing.append(Missing(part, shown.as_posix(), reason, command))


COMMANDS = {
    "add": "pipeline data add {} --from FOLDER",
    "prompt_quality": "pipeline prompt-quality --dataset {}",
}


def command(stage: str, dataset: str) -> str:
    """Return the command line that runs a stage on a dataset."""
    return COMMANDS.get(stage, f"pipeline {stage} --dataset {{}}").format(dataset)


def load_dataset(name: str, params: Params, paths: Paths) -> Dataset:
    """Read everything that the report shows of a dataset.

    What cannot be read, or was made from other inputs than those on disk, is left None and listed
    in `missing`; nothing is invented.
    """
    data = Dataset(name, paths, params)
    plots = paths.plots(name)
    sources: dict[str, tuple[Path, Callable[[Path], Any], str]] = {
        "manifest": (paths.manifest(name), read_manifest, "add"),
        "audit": (paths.audit_summary(name), _json, "audit"),
        "copies": (paths.audit(name), pd.read_parquet, "audit"),
        "pairs": (paths.audit_pairs(name), pd.read_parquet, "audit"),
        "masks": (paths.masks(name), _masks, "segment"),
        "features": (paths.features(name), _features, "encode"),
        "runs": (paths.runs(name), _table, "train"),
        "predictions": (paths.predictions(name), _table, "train"),
        "metrics": (paths.metrics_table(name), _table, "evaluate"),
        "comparisons": (plots / "comparisons.csv", _csv, "evaluate"),
        "per_class": (plots / "per_class.csv", _csv, "evaluate"),
        "confusion": (plots / "confusion.csv", _csv, "evaluate"),
        "reliability": (plots / "reliability.csv", _csv, "evaluate"),
        "test_sets": (plots / "test_sets.csv", _csv, "evaluate"),
        "mask_summary": (plots / "mask_summary.csv", _csv, "evaluate"),
        "mask_quality": (paths.mask_quality(name), pd.read_parquet, "evaluate"),
        "prompt_quality": (paths.prompt_quality(name), pd.read_parquet, "prompt_quality"),
    }
    data.sources = {part: (path, stage) for part, (path, _, stage) in sources.items()}
    for part, (path, read, stage) in sources.items():
        try:
            if not path.exists():
                raise FileNotFoundError("not there")
            setattr(data, part, read(path))
        except (PipelineError, OSError, ValueError, KeyError) as error:
            data.omit(part, path, _reason(error), command(stage, name))
    leave_out_inconsistent(data)
    for stage in STAGES:
        path = paths.record(name, stage)
        if path.exists():
            try:
                data.records[stage] = RunRecord.read(path).to_json()
            except PipelineError as error:
                data.omit(f"record of {stage}", path, _reason(error), command(stage, name))
    return data


def leave_out_inconsistent(data: Dataset) -> None:
    """Leave out tables that do not belong together, and list them as missing.

    Stages replace their files one by one, so that after a killed run, or `train` without
    `evaluate`, tables of two runs lie side by side. Each states what it was made from; tables of
    other predictions, of other features, or with labels that the manifest has changed since are
    not shown.
    """
    name, paths = data.name, data.paths
    changed = {
        "predictions": _relabelled(data, data.predictions, "y_true"),
        "mask_quality": _relabelled(data, data.mask_quality, "label"),
        "prompt_quality": _relabelled(data, data.prompt_quality, "label"),
    }
    if data.predictions is not None:
        schema = pq.read_schema(paths.predictions(name))
        if data.runs is not None and not paired(
            data.runs.rename(columns={"learner": "head"}), schema
        ):
            changed["predictions"] = words.OTHER_RUNS
        elif data.features is not None and not of_features(schema, data.features.identity):
            changed["predictions"] = words.OTHER_FEATURES
        if data.metrics is not None:
            now = pq.read_schema(paths.metrics_table(name))
            if changed["predictions"] or trained(schema) != trained(now):
                changed["metrics"] = changed["predictions"] or words.OTHER_PREDICTIONS
    if data.metrics is not None:
        schema = pq.read_schema(paths.metrics_table(name))
        for part in ("per_class", "comparisons", "mask_quality"):
            if not is_beside(part, data.sources[part][0], schema):
                changed.setdefault(part, "")
                changed[part] = changed[part] or words.OTHER_EVALUATION
    if changed.get("metrics") or data.metrics is None:
        reason = changed.get("metrics") or words.NO_METRICS
        of_metrics = ("comparisons", "per_class", "confusion", "reliability", "test_sets")
        changed |= dict.fromkeys(of_metrics, reason)
    for part, reason in changed.items():
        if reason and getattr(data, part) is not None:
            path, stage = data.sources[part]
            data.omit(part, path, reason, command(stage, name))


def _relabelled(data: Dataset, table: pd.DataFrame | None, column: str) -> str:
    """Say which images of a table have another label in the manifest now; "" if none has."""
    if table is None or data.manifest is None or table.empty:
        return ""
    labels = table.astype({"image_id": str, column: str}).set_index("image_id")[column]
    return relabelled(labels, data.manifest)


def _reason(error: Exception) -> str:
    """Return the first two lines of an error's message, without its path."""
    text = error.message if isinstance(error, PipelineError) else str(error)
    return ": ".join(line.strip() for line in text.splitlines()[:2]) or type(error).__name__


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _table(path: Path) -> pd.DataFrame:
    return _learner(pd.read_parquet(path))


def _csv(path: Path) -> pd.DataFrame:
    """Read a table; class names such as "007" and "NA" stay text."""
    names = ("actual", "predicted", "class", "label", "largest_class", "missing_classes")
    return _learner(
        pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False, na_values=[""])
    )


def _learner(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"head": "learner", "head_a": "learner_a", "head_b": "learner_b"})


def _masks(path: Path) -> Any:
    from pipeline.stores import open_masks

    return open_masks(path)


def _features(path: Path) -> Any:
    from pipeline.stores import open_features

    return open_features(path)
