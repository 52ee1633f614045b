"""What the report reads of one dataset: tables, stores and records, each present or named.

The report computes no statistics: figures, intervals and differences are those of `evaluate`.
A table that is missing, or that was made from other inputs than the ones on disk, is not shown;
it is listed in `Dataset.missing` with the command that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.evaluate.compare import verdict
from pipeline.evaluate.images import by_image, true_probability
from pipeline.evaluate.mask_quality import masks_inputs
from pipeline.evaluate.predictions import image_units
from pipeline.io import sha256_file
from pipeline.learners.runs import read_predictions, run_inputs, train_command
from pipeline.manifest import read_manifest
from pipeline.models.seen import DIGITS, trained_on
from pipeline.paths import Paths
from pipeline.provenance import changed, check, read_stamp, schema_stamp
from pipeline.report import words
from pipeline.report.paper import quoted
from pipeline.store import open_features, open_masks

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
        train = [record for stage, record in self.records.items() if stage.startswith("train")]
        notes = [note for record in train for note in record["parameters"].get("notes") or []]
        return list(dict.fromkeys(map(str, notes)))

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
        return None if rows.empty else rows

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

    @contextmanager
    def reading(self, part: str, path: Path, again: str) -> Iterator[None]:
        """Leave a part out and list it as missing when what is inside raises."""
        try:
            yield
        except (PipelineError, OSError, ValueError, KeyError) as error:
            if hasattr(self, part):
                setattr(self, part, None)
            root = Path(self.paths.root)
            shown = path.relative_to(root) if path.is_relative_to(root) else path
            reason = reason_of(error).replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
            self.missing.append(Missing(part, shown.as_posix(), reason, again))


COMMANDS = {
    "add": "pipeline data add {} --from FOLDER",
    "prompt_quality": "pipeline prompt-quality --dataset {}",
}
PLOTS = ("comparisons", "per_class", "confusion", "reliability", "test_sets", "mask_summary")
"""Tables of `evaluate` in plots/, each read by its name."""


def command(stage: str, dataset: str) -> str:
    """Return the command line that runs a stage on a dataset."""
    return COMMANDS.get(stage, f"pipeline {stage} --dataset {{}}").format(dataset)


def load_dataset(name: str, params: Params, paths: Paths) -> Dataset:
    """Read everything that the report shows of a dataset.

    What cannot be read, or was made from other inputs than those on disk, is left None and listed
    in `missing`; nothing is invented.
    """
    data = Dataset(name, paths, params)
    sources: dict[str, tuple[Path, Callable[[Path], Any], str]] = {
        "manifest": (paths.manifest(name), read_manifest, "add"),
        "audit": (paths.audit_summary(name), _json, "audit"),
        "copies": (paths.audit(name), pd.read_parquet, "audit"),
        "pairs": (paths.audit_pairs(name), pd.read_parquet, "audit"),
        "masks": (paths.masks(name), open_masks, "segment"),
        "features": (paths.features(name), open_features, "encode"),
        "metrics": (paths.metrics_table(name), pd.read_parquet, "evaluate"),
        "mask_quality": (paths.mask_quality(name), pd.read_parquet, "evaluate"),
        "prompt_quality": (paths.prompt_quality(name), pd.read_parquet, "prompt_quality"),
    }
    for plot in PLOTS:
        sources[plot] = (paths.plots(name) / f"{plot}.csv", _csv, "evaluate")
    for part, (path, read, stage) in sources.items():
        with data.reading(part, path, command(stage, name)):
            if not path.exists():
                raise FileNotFoundError("not there")
            setattr(data, part, read(path))
    _read_runs(data)
    _leave_out_inconsistent(data, {part: path for part, (path, _, _) in sources.items()})
    folder = paths.record(name, "add").parent
    order = {stage: i for i, stage in enumerate(STAGES)}
    found = sorted(folder.glob("*.json"), key=lambda p: (order.get(p.stem.split("-")[0], 9), p))
    for path in found:  # train writes one record for each learner
        with data.reading(f"record of {path.stem}", path, command(path.stem.split("-")[0], name)):
            data.records[path.stem] = RunRecord.read(path).to_json()
    return data


def _read_runs(data: Dataset) -> None:
    """Read the run folders of the learners of params.yaml, each made from today's inputs."""
    runs, tables = [], []
    for learner in data.params.learners:
        path, again = data.paths.predictions(data.name, learner), train_command(data.name, learner)
        with data.reading("predictions", path, again):
            table, predictions = read_predictions(data.paths, data.name, [learner])
            stamped = (schema_stamp(predictions.schema) or {}).get(learner)
            check(stamped, again, path, **run_inputs(data.paths, data.name))
            runs.append(table)
            names = ("protocol", "learner", "view", "image_id", "y_true", "y_pred")
            tables.append(predictions.to_pandas().astype(dict.fromkeys(names, str)))
    if tables:
        data.runs = pd.concat(runs, ignore_index=True)
        data.predictions = pd.concat(tables, ignore_index=True)


def _leave_out_inconsistent(data: Dataset, files: dict[str, Path]) -> None:
    """Leave out tables that were made from other inputs than those on disk, and list them.

    Stages replace their files one by one, so that after a killed run, or `train` without
    `evaluate`, files of two runs lie side by side. metrics.parquet states what it was made from,
    and the tables that belong to it.
    """
    name, paths, again = data.name, data.paths, command("evaluate", data.name)
    stamped: dict[str, str] = {}
    if data.metrics is not None:
        with data.reading("metrics", files["metrics"], again):
            stamped = read_stamp(files["metrics"]) or {}
            learners = [key.partition("/")[2] for key in stamped if key.startswith("predictions/")]
            inputs = {f"predictions/{one}": paths.predictions(name, one) for one in learners}
            check(stamped, again, files["metrics"], **inputs, **run_inputs(paths, name))
    for part in PLOTS:
        if getattr(data, part) is not None:
            with data.reading(part, files[part], again):
                if data.metrics is None:
                    raise PipelineError(words.NO_METRICS)
                if changed(stamped, **{part: files[part]}):
                    raise PipelineError(words.OTHER_EVALUATION)
    if data.mask_quality is not None:
        with data.reading("mask_quality", files["mask_quality"], again):
            check(read_stamp(files["mask_quality"]), again, "", **masks_inputs(paths, name))
    if data.prompt_quality is not None and data.manifest is not None:
        with data.reading(
            "prompt_quality", files["prompt_quality"], command("prompt_quality", name)
        ):
            then = data.prompt_quality.drop_duplicates("image_id").set_index("image_id")["label"]
            now = data.manifest.set_index("image_id")["label"].reindex(then.index)
            if (then != now).any():
                raise PipelineError(words.OTHER_LABELS)


def reason_of(error: Exception) -> str:
    """Return the first two lines of an error's message, without its path."""
    text = error.message if isinstance(error, PipelineError) else str(error)
    return ": ".join(line.strip() for line in text.splitlines()[:2]) or type(error).__name__


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _csv(path: Path) -> pd.DataFrame:
    """Read a table; names such as "007" and "NA" stay text."""
    text = ("actual", "predicted", "class", "label", "largest_class", "missing_classes", "verdict")
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys(set(text) & set(table.columns), ""))
