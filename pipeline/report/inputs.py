"""What the report reads of one dataset, each part present or named as missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pipeline.config import EvaluateParams
from pipeline.engine.record import RunRecord
from pipeline.errors import ManifestError, PipelineError
from pipeline.evaluate.test_sets import image_units
from pipeline.io import sha256_file
from pipeline.learners.runs import read_predictions
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.report import select
from pipeline.report.bootstrap import Interval, mean_interval
from pipeline.report.mixed import EVALUATE, TRAIN, drop_mixed
from pipeline.report.paper import quoted
from pipeline.report.tables import share

STAGES = ("audit", "segment", "prompt_quality", "encode", "train", "evaluate")
PLOTS = ("per_class", "comparisons")
TESTED = ["protocol", "seed", "image_id", "y_true"]
NO_AUDIT = "no leak audit"  # how the note of the plan of the splits begins


@dataclass(frozen=True)
class Missing:
    """A file that is not there (or cannot be read), and the command that makes it."""

    what: str
    path: str
    command: str
    reason: str = "not there"


@dataclass
class DatasetInputs:
    """The tables of one dataset; a table is None where its file is missing.

    `masks` and `features` are the opened stores. `records` maps a stage to its run record;
    `schemas` has those of predictions.parquet and metrics.parquet, where they are read.
    `evaluate` says how sure intervals are, how they are drawn, and how many bins there are.
    """

    name: str
    paths: Paths
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    manifest: pd.DataFrame | None = None
    metrics: pd.DataFrame | None = None
    runs: pd.DataFrame | None = None
    per_class: pd.DataFrame | None = None
    comparisons: pd.DataFrame | None = None
    mask_quality: pd.DataFrame | None = None
    prompt_quality: pd.DataFrame | None = None
    audit: dict[str, Any] | None = None
    audit_images: pd.DataFrame | None = None
    audit_pairs: pd.DataFrame | None = None
    masks: Any = None
    features: Any = None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    schemas: dict[str, Any] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    _units: dict[str, str] | None = None

    def drop(self, part: str, path: Path, command: str, reason: str) -> None:
        """Put None in the place of a table, and list it as missing."""
        self.schemas.pop(part, None)
        self.__dict__.pop("tested", None)
        if part != "predictions":  # which are read piece by piece
            setattr(self, part, None)
        self.list_missing(part, path, command, reason)

    def list_missing(self, part: str, path: Path, command: str, reason: str) -> None:
        """Name a file that cannot be shown, with the command that makes it ({}: the dataset)."""
        root = self.paths.root
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        self.missing.append(Missing(part, str(shown), command.format(self.name), reason))

    @property
    def synthetic(self) -> bool:
        """True when any image of the manifest is labelled synthetic."""
        return self.manifest is not None and bool((self.manifest["synthetic"] == "1").any())

    @property
    def drawn_split(self) -> bool:
        """True when the manifest has no test part: `train` drew the one of protocol official."""
        return self.manifest is not None and not (self.manifest["split"] == "test").any()

    @property
    def quoted(self) -> dict[str, dict[float, float]]:
        """The paper's figures for this set; none for phantoms, whatever they are called."""
        return {} if self.synthetic else quoted(self.name)

    @property
    def audited(self) -> bool:
        """True when copies are known, here and when the splits were drawn."""
        unaware = any(note.startswith(NO_AUDIT) for note in self.notes)
        return self.audit_images is not None and not unaware

    @cached_property
    def manifest_hash(self) -> str:
        """SHA-256 of the manifest's bytes; "" where there is none."""
        path = self.paths.manifest(self.name)
        return sha256_file(path) if path.is_file() else ""

    @property
    def notes(self) -> list[str]:
        """What the plan of the splits noted, as `train` has recorded it."""
        parameters = self.records.get("train", {}).get("parameters") or {}
        return [str(note) for note in parameters.get("notes") or []]

    @property
    def level(self) -> str:
        """The confidence of the intervals, in words: "95 %"."""
        return share(self.evaluate.confidence)

    def block_name(self, protocol: str, subset: str) -> str:
        """Name a split in words: whether it is drawn here, and whether copies were known."""
        return select.block_name(protocol, subset, drawn=self.drawn_split, audited=self.audited)

    def mean_interval(self, table: pd.DataFrame, column: str) -> Interval:
        """Return mean, low and high of a column over the images of a table (`image_id`)."""
        units = self.units(table["image_id"])
        return mean_interval(table[column].to_numpy(), units, self.evaluate)

    @property
    def classes(self) -> list[str]:
        return [] if self.manifest is None else sorted(self.manifest["label"].unique())

    def units(self, image_ids: Iterable[str]) -> list[str]:
        """Return what each image is resampled with: its patient, group and copies, joined."""
        if self._units is None:
            self._units = {} if self.manifest is None else self._joined()
        return [self._units.get(i, f"image {i}") for i in image_ids]

    def _joined(self) -> dict[str, str]:
        try:
            return image_units(self.manifest, self.audit_images)
        except (ManifestError, KeyError):  # an audit of other images: as if there were none
            return image_units(self.manifest, None)

    @cached_property
    def tested(self) -> pd.DataFrame | None:
        """Which images were predicted, with their labels of then: `TESTED`, as text, each once."""
        if "predictions" not in self.schemas:
            return None
        table = _predictions(self.paths, self.name, columns=TESTED)[1].to_pandas()
        table = table.drop_duplicates(ignore_index=True)
        return table.astype({name: str for name in TESTED if name != "seed"})

    def predictions(self, **where: Any) -> pd.DataFrame | None:
        """Return the predictions of the runs where every given column has the given value.

        `fraction` is compared with a tolerance, since it is stored as float32. Names come back as
        text. None when there are no predictions of the runs and metrics that are there.
        """
        if "predictions" not in self.schemas:
            return None
        filters = []
        for column, value in where.items():
            if column == "fraction":
                filters += [(column, ">", value - 1e-4), (column, "<", value + 1e-4)]
            else:
                filters.append(("learner" if column == "head" else column, "==", value))
        table = _predictions(self.paths, self.name, filters=filters or None)[1].to_pandas()
        table = table.rename(columns={"learner": "head"})
        coded = table.columns[[isinstance(t, pd.CategoricalDtype) for t in table.dtypes]]
        return table.astype(dict.fromkeys(coded, str))


def load_inputs(name: str, paths: Paths, evaluate: EvaluateParams | None = None) -> DatasetInputs:
    """Read every table of a dataset; what is missing is listed, never invented."""
    found = DatasetInputs(name, paths, evaluate or EvaluateParams())
    readers = {
        "manifest": (paths.manifest(name), read_manifest, "pipeline data add {} --from FOLDER"),
        "audit": (paths.audit_summary(name), _json, "pipeline audit --dataset {}"),
        "audit_images": (paths.audit(name), pd.read_parquet, "pipeline audit --dataset {}"),
        "audit_pairs": (
            paths.audit_pairs(name),
            pd.read_parquet,
            "pipeline audit --dataset {}",
        ),
        "masks": (paths.masks(name), _masks, "pipeline segment --dataset {}"),
        "features": (paths.features(name), _features, "pipeline encode --dataset {}"),
        "runs": (
            paths.run(name, "x").parent,
            lambda _: _predictions(paths, name, columns=[])[0].rename(columns={"learner": "head"}),
            TRAIN,
        ),
        "metrics": (paths.metrics_table(name), _metrics, EVALUATE),
        "mask_quality": (
            paths.mask_quality(name),
            pd.read_parquet,
            EVALUATE,
        ),
        "prompt_quality": (
            paths.prompt_quality(name),
            pd.read_parquet,
            "pipeline prompt-quality --dataset {}",
        ),
    }
    for plot in PLOTS:
        path = paths.plots(name) / f"{plot}.csv"
        readers[plot] = (path, _csv, EVALUATE)
    for part, (path, read, command) in readers.items():
        setattr(found, part, _read(found, part, path, read, command))
    predictions = _read(
        found,
        "predictions",
        paths.run(name, "x").parent,
        lambda _: _predictions(paths, name, columns=[])[1].schema,
        TRAIN,
    )
    if predictions is not None:
        found.schemas["predictions"] = predictions
    if found.metrics is not None:
        found.schemas["metrics"] = pq.read_schema(paths.metrics_table(name))
    drop_mixed(found)
    for stage in ("add", *STAGES):
        path = paths.record(name, stage)
        if stage == "train":  # one record for each learner: the last one
            every = path.parent.glob("train-*.json")
            path = max(every, key=lambda file: file.stat().st_mtime, default=path)
        command = f"pipeline {stage.replace('_', '-')} --dataset {{}}"
        command = readers["manifest"][2] if stage == "add" else command
        record = path.exists() and _read(found, f"record of {stage}", path, _record, command)
        if record:
            found.records[stage] = record
    return found


def _read(
    found: DatasetInputs, part: str, path: Path, read: Callable[[Path], Any], command: str
) -> Any:
    """Return what `read` makes of a file; None, and a line in `missing`, where it cannot."""
    try:
        if not path.exists():
            raise FileNotFoundError("not there")
        return read(path)
    except (PipelineError, OSError, ValueError, KeyError) as error:
        found.list_missing(part, path, command, _reason(error))
        return None


def _reason(error: Exception) -> str:
    """Say what is wrong in a line: the first problem of several, and no path of this machine."""
    text = error.message if isinstance(error, PipelineError) else str(error)
    return ": ".join(line.strip() for line in text.splitlines()[:2]) or type(error).__name__


def _record(path: Path) -> dict[str, Any]:
    return RunRecord.read(path).to_json()


def _predictions(paths: Paths, name: str, **which: Any) -> tuple[pd.DataFrame, Any]:
    """Read the runs and predictions of all learners that have a run folder."""
    folders = sorted(
        path.parent.name for path in paths.run(name, "x").parent.glob("*/runs.parquet")
    )
    if not folders:
        raise FileNotFoundError("not there")
    return read_predictions(paths, name, folders, **which)


def _metrics(path: Path) -> pd.DataFrame:
    """Read metrics.parquet; its names become categories, since sections filter by them often."""
    table = pd.read_parquet(path).rename(columns={"learner": "head"})
    return table.astype(dict.fromkeys(("protocol", "subset", "head", "view", "metric"), "category"))


def _csv(path: Path) -> pd.DataFrame:
    """Read a plot table; names of classes and images stay text ("007", "NA")."""
    names = ("class", "actual", "predicted", "image_id", "note")
    table = pd.read_csv(
        path,
        dtype=dict.fromkeys(names, str),
        keep_default_na=False,
        na_values={c: ["", "nan", "NaN"] for c in _number_columns(path, names)},
    )
    return table.rename(columns=lambda name: name.replace("learner", "head"))


def _number_columns(path: Path, names: tuple[str, ...]) -> list[str]:
    text = {*names, "protocol", "subset", "head", "view", "metric"}
    text |= {"head_a", "view_a", "head_b", "view_b", "learner", "learner_a", "learner_b", "verdict"}
    return [c for c in pd.read_csv(path, nrows=0).columns if c not in text]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _masks(path: Path) -> Any:
    from pipeline import open_masks

    return open_masks(path)


def _features(path: Path) -> Any:
    from pipeline import open_features

    return open_features(path)
