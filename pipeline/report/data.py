"""What the report reads of one dataset: tables, stores and records, each present or named.

The report computes no statistics: figures, intervals and differences are those of `evaluate`.
A table that is missing, or that was made from other inputs than the ones on disk, is not shown;
it is listed in `Dataset.missing` with the command that makes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.config import Params
from pipeline.engine.record import RunRecord
from pipeline.errors import PipelineError
from pipeline.evaluate.mask_quality import masks_inputs
from pipeline.evaluate.predictions import by_image
from pipeline.learners.runs import read_predictions, run_inputs, train_command, usable_learners
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.provenance import changed, check, digest_of, read_stamp, schema_stamp
from pipeline.remote import exists
from pipeline.report import words
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
BLOCKS = (*STRICTEST, ("grouped-pooled", "full"), *TRUTH)
"""What the page shows, in its order."""
PLOTS = ("comparisons", "per_class", "confusion", "test_sets", "mask_summary")
"""Tables of `evaluate` in plots/ that the page shows."""
FLOORS = tuple(words.FLOORS)
"""Strategies that are no masks of a model."""
OTHER_SET = {
    "lung": "The paper's lung data set is a different one: it has five classes (bacterial and "
    "viral pneumonia, COVID-19, tuberculosis, normal) and 2,025 test images. Its figures cannot "
    "be compared with ours.",
}


@cache
def paper_tables() -> pd.DataFrame:
    """Return the paper's figures: dataset, table, architecture, a column (percent) per share."""
    return pd.read_csv(Path(__file__).with_name("paper_tables.csv"), comment="#")


def quoted(dataset: str) -> dict[str, dict[float, float]]:
    """Return {architecture: {fraction: accuracy from 0 to 1}} as the paper prints it.

    Empty for a dataset that the paper does not have.
    """
    rows = select(paper_tables(), dataset=dataset).set_index("architecture")
    return {
        name: {int(share) / 100: round(float(value) / 100, 6) for share, value in row.items()}
        for name, row in rows.drop(columns=["dataset", "table"]).iterrows()
    }


class Missing(NamedTuple):
    """A file that cannot be shown, why, and the command that makes it."""

    path: str
    reason: str
    command: str


@dataclass
class Dataset:
    """The inputs of one dataset's part of the page; a table is None where it cannot be shown.

    Attributes:
        copies, pairs: the audit's tables.
        masks, features: the opened stores.
        runs, predictions: of all learners of params.yaml.
        metrics: and the tables of `PLOTS`, as `evaluate` wrote them.
        compare: every system of the study, as `compare` wrote it.
        records: the run record of each stage that ran.
        missing: what is not shown, and the command that makes it.
    """

    name: str
    paths: Paths
    params: Params
    manifest: pd.DataFrame | None = None
    copies: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    masks: Any = None
    features: Any = None
    runs: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None
    comparisons: pd.DataFrame | None = None
    compare: pd.DataFrame | None = None
    per_class: pd.DataFrame | None = None
    confusion: pd.DataFrame | None = None
    test_sets: pd.DataFrame | None = None
    mask_summary: pd.DataFrame | None = None
    mask_quality: pd.DataFrame | None = None
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
        return digest_of(self.paths.manifest(self.name))

    @property
    def baseline(self) -> Run:
        """The run that every other one is compared with."""
        return self.params.study.baseline.key

    @property
    def study(self) -> dict[Run, str]:
        """The name of each run of the study, in its order; the first is the baseline."""
        return {run.key: run.name for run in self.params.study.runs}

    def run_name(self, run: Run) -> str:
        """Return the study's name of a run, or its learner and view in words."""
        return self.study.get(run) or f"{words.LEARNERS.get(run[0], run[0])}, {words.view(run[1])}"

    def counterpart(self, architecture: str) -> Run | None:
        """Return our run for an architecture of the paper: the first of that name, of a size of it
        (ResNet-50), or the baseline for CLIP."""
        if architecture == "CLIP":
            return self.baseline
        sizes = re.compile(rf"{re.escape(architecture)}(?![A-Za-z0-9])(?!-Adapter)")
        return next((run for run, name in self.study.items() if sizes.match(name)), None)

    @cached_property
    def systems(self) -> pd.DataFrame:
        """The rows of compare.parquet on all test images; none before `compare`."""
        return select(self.compare, subset="full")

    @cached_property
    def estimates(self) -> dict[tuple[Block, str], dict[Run, dict[float, Any]]]:
        """{(block, metric): {run: {fraction: row of metrics.parquet}}}, over all seeds."""
        found: dict = {}
        for r in select(self.metrics, seed=-1).itertuples(index=False):
            runs = found.setdefault(((r.protocol, r.subset), r.metric), {})
            runs.setdefault((r.learner, r.view), {})[round(float(r.fraction), 4)] = r
        return found

    def accuracy(self, block: Block) -> dict[Run, dict[float, Any]]:
        """Return {run: {fraction: accuracy}} of a block; empty where it was not evaluated."""
        return self.estimates.get((block, "accuracy"), {})

    @cached_property
    def differences(self) -> dict[tuple[Block, Run, Run], dict[float, Any]]:
        """{(block, run a, run b): {fraction: row of comparisons.csv}} of accuracy, a - b; the
        baseline is always b."""
        found: dict = {}
        for r in select(self.comparisons, metric="accuracy").itertuples(index=False):
            runs = (r.learner_a, r.view_a), (r.learner_b, r.view_b)
            by = found.setdefault(((r.protocol, r.subset), *runs), {})
            by[round(float(r.fraction), 4)] = r
        return found

    @cached_property
    def tested(self) -> dict[Block, Any]:
        """The row of each block in plots/test_sets.csv: sizes, classes, the largest class."""
        rows = select(self.test_sets).itertuples(index=False)
        return {(r.protocol, r.subset): r for r in rows}

    @cached_property
    def blocks(self) -> list[Block]:
        """The evaluated blocks, the strictest first, without subsets that leave out no image."""
        have = [block for block in BLOCKS if self.fractions(block)]
        first: dict[tuple, Block] = {}
        for block in sorted(have, key=lambda b: b[1] != "full"):
            size = self.tested[block].n_images if block in self.tested else block
            first.setdefault((block[0], size), block)
        return [block for block in have if block in first.values()]

    @property
    def headline(self) -> Block | None:
        """The strictest block that holds the study's baseline."""
        return next(
            (b for b in STRICTEST if b in self.blocks and self.baseline in self.accuracy(b)), None
        )

    def fractions(self, block: Block) -> list[float]:
        """Return the shares of the labels of a block, rising (0 is zero-shot's and left out)."""
        return sorted({f for by in self.accuracy(block).values() for f in by if f > 0})

    def shown(self, block: Block) -> list[Run]:
        """Return the runs of a block's plot and tables: the study's or, on images with a
        ground-truth mask, the views of the baseline's learner."""
        found = self.accuracy(block)
        if block not in TRUTH:
            return [run for run in self.study if run in found]
        learner, view = self.baseline
        return sorted((r for r in found if r[0] == learner), key=lambda r: r[1] != view)

    def labels_used(self, block: Block) -> dict[float, int]:
        """Return how many labels each share is: training and validation, median over the runs."""
        runs = self.accuracy(block).values()
        return {
            f: round(float(pd.Series([by[f].n_labels for by in runs if f in by]).median()))
            for f in self.fractions(block)
        }

    def cases(self, run: Run) -> pd.DataFrame | None:
        """Summarise the predictions of a run by image (`by_image`), in the headline's protocol
        with the most labels; None without predictions."""
        if (block := self.headline) is None:
            return None
        key = {"protocol": block[0], "learner": run[0], "view": run[1]}
        rows = select(self.predictions, **key, fraction=self.fractions(block)[-1])
        return None if rows.empty else by_image(rows)

    @cached_property
    def stored_quality(self) -> pd.DataFrame | None:
        """The rows of mask_quality.parquet about the stored masks; None without any."""
        table = self.mask_quality
        if table is None or table["strategy"].isin(FLOORS).all():
            return None
        return table[~table["strategy"].isin(FLOORS)]

    @cached_property
    def mask_figures(self) -> list[Any]:
        """The rows of plots/mask_summary.csv that have images: Dice, IoU and HD95 with intervals,
        of the stored masks first. Empty without stored masks."""
        rows = select(self.mask_summary) if self.stored_quality is not None else pd.DataFrame()
        return [row for row in rows.itertuples(index=False) if row.n_images > 0]

    @cached_property
    def test_copies(self) -> tuple[int, int, int] | None:
        """Numbers of test images, of those with a copy in train, and of those with one that may
        be mirrored or rotated; None without an audit or a test part."""
        if self.copies is None or self.drawn_split:
            return None
        test = select(self.copies, split="test")
        counts = (int(test[column].sum()) for column in ("copy_in_train", "copy_in_train_any"))
        return len(test), *counts

    @cached_property
    def mask_status(self) -> dict[str, str]:
        """The status of each mask by image_id: ok, empty, full or failed."""
        return {} if self.masks is None else in_manifest(self.masks)["status"].to_dict()

    def read(self, path: Path, again: str, reader: Callable[[Path], Any]) -> Any | None:
        """Return what a reader returns; None, and listed as missing, when the reader raises.

        Args:
            path: the file or folder, which must exist.
            again: the command that makes it.
            reader: raises for a file that must not be shown.
        """
        try:
            if not exists(path):
                raise PipelineError("not there")
            return reader(path)
        except (PipelineError, OSError, ValueError, KeyError) as error:
            root = Path(self.paths.root)
            shown = path.relative_to(root) if path.is_relative_to(root) else path
            reason = reason_of(error).replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
            self.missing.append(Missing(shown.as_posix(), reason, again))
            return None


def command(stage: str, dataset: str) -> str:
    """Return the command line that runs a stage on a dataset."""
    if stage == "add":
        return f"pipeline data add {dataset} --from FOLDER"
    return f"pipeline {stage.replace('_', '-')} --dataset {dataset}"


def select(table: pd.DataFrame | None, **values: Any) -> pd.DataFrame:
    """Return the rows that have these values in these columns, fractions to four decimals; none of
    a table that is not there."""
    if table is None:
        return pd.DataFrame()
    for column, value in values.items():
        close = column == "fraction"
        table = table[abs(table[column] - value) < 1e-4 if close else table[column] == value]
    return table


def in_manifest(store: Any) -> pd.DataFrame:
    """Return a store's index without the images that have left the manifest."""
    return select(store.table(), in_manifest=True)


def load_dataset(name: str, params: Params, paths: Paths) -> Dataset:
    """Read everything that the report shows of a dataset.

    What cannot be read, or was made from other inputs than those on disk, is left None and listed
    in `missing`; nothing is invented.
    """
    data = Dataset(name, paths, params)
    evaluate, prompts = command("evaluate", name), command("prompt_quality", name)

    def judged(path: Path) -> pd.DataFrame:
        stamped = read_stamp(path) or {}
        learners = [key.partition("/")[2] for key in stamped if key.startswith("predictions/")]
        inputs = {f"predictions/{one}": paths.predictions(name, one) for one in learners}
        check(stamped, evaluate, path, **inputs, **run_inputs(paths, name))
        return pd.read_parquet(path)

    def plot(path: Path) -> pd.DataFrame:
        stamped = {} if data.metrics is None else read_stamp(paths.metrics_table(name))
        if changed(stamped, **{path.stem: path}):
            raise PipelineError("of another evaluation than metrics.parquet")
        return _csv(path)

    def mask_quality(path: Path) -> pd.DataFrame:
        check(read_stamp(path), evaluate, path, **masks_inputs(paths, name))
        return pd.read_parquet(path)

    def prompt_quality(path: Path) -> pd.DataFrame:
        table = pd.read_parquet(path)
        if data.manifest is not None:
            then = table.drop_duplicates("image_id").set_index("image_id")["label"]
            now = data.manifest.set_index("image_id")["label"].reindex(then.index)
            if (then != now).any():
                raise PipelineError("of other labels than those of the manifest")
        return table

    data.manifest = data.read(paths.manifest(name), command("add", name), read_manifest)
    data.copies = data.read(paths.audit(name), command("audit", name), pd.read_parquet)
    data.pairs = data.read(paths.audit_pairs(name), command("audit", name), pd.read_parquet)
    data.masks = data.read(paths.masks(name), command("segment", name), open_masks)
    data.features = data.read(paths.features(name), command("encode", name), open_features)
    _read_runs(data)
    data.metrics = data.read(paths.metrics_table(name), evaluate, judged)
    for part in PLOTS:
        setattr(data, part, data.read(paths.plots(name) / f"{part}.csv", evaluate, plot))
    data.compare = data.read(paths.compare(name), command("compare", name), judged)
    data.mask_quality = data.read(paths.mask_quality(name), evaluate, mask_quality)
    data.prompt_quality = data.read(paths.prompt_quality(name), prompts, prompt_quality)
    order = {stage: i for i, stage in enumerate(STAGES)}
    found = paths.record(name, "add").parent.glob("*.json")
    for path in sorted(found, key=lambda p: (order.get(p.stem.split("-")[0], 9), p)):
        again = command(path.stem.split("-")[0], name)  # train writes a record for each learner
        if record := data.read(path, again, RunRecord.read):
            data.records[path.stem] = record.to_json()
    return data


def _read_runs(data: Dataset) -> None:
    """Read the run folders of the learners of params.yaml, each made from today's inputs."""

    def reader(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        learner = path.parent.name
        table, predictions = read_predictions(data.paths, data.name, [learner])
        stamped = (schema_stamp(predictions.schema) or {}).get(learner)
        again = train_command(data.name, learner)
        check(stamped, again, path, **run_inputs(data.paths, data.name))
        names = ("protocol", "learner", "view", "image_id", "y_true", "y_pred")
        return table, predictions.to_pandas().astype(dict.fromkeys(names, str))

    learners = usable_learners(data.params, data.paths, data.features)
    files = {data.paths.predictions(data.name, n): train_command(data.name, n) for n in learners}
    if found := [*filter(None, (data.read(*of, reader) for of in files.items()))]:
        tables = (pd.concat(of, ignore_index=True) for of in zip(*found, strict=True))
        data.runs, data.predictions = tables


def reason_of(error: Exception) -> str:
    """Return the first two lines of an error's message, without its path."""
    text = error.message if isinstance(error, PipelineError) else str(error)
    return ": ".join(line.strip() for line in text.splitlines()[:2]) or type(error).__name__


def _csv(path: Path) -> pd.DataFrame:
    """Read a table; names such as "007" and "NA" stay text."""
    text = ("actual", "predicted", "class", "label", "largest_class", "missing_classes", "verdict")
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys(set(text) & set(table.columns), ""))
