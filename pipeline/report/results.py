"""The published results: README.md with a table a dataset and one figure, and CSV files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.io import atomic_write, atomic_write_text, csv_text
from pipeline.paths import Paths
from pipeline.report import systems, words
from pipeline.report.build import git_commit, how_to_read, models_used, render, warnings
from pipeline.report.data import (
    OTHER_SET,
    PUBLISHED,
    Dataset,
    command,
    load_dataset,
    paper_tables,
    select,
)
from pipeline.report.plots import forest_file

COLUMNS = (
    "protocol", "subset", "learner", "view", "fraction", "seed", "metric", "value", "lo", "hi",
    "t_lo", "t_hi", "n_labels", "n_images", "note",
)  # fmt: skip
LINES = 150
"""The longest README.md."""


def write_results(
    params: Params, paths: Paths, datasets: Sequence[str] | None = None
) -> list[Path]:
    """Write the CSV files of some datasets, and the pages and figure of all; return the paths.

    Args:
        params: the runs of the study and the datasets of the README.
        paths: the project folder; everything goes to `paths.results`.
        datasets: names; default `params.datasets`. Further ones are added to the README.
    """
    asked = list(datasets or params.datasets)
    written = [path for name in asked for path in write_tables(params, paths, name)]
    return written + write_readme(params, paths, list(dict.fromkeys([*params.datasets, *asked])))


def write_tables(params: Params, paths: Paths, dataset: str) -> list[Path]:
    """Write `<dataset>.csv.gz`, and `_comparisons` and `_systems`; none before `evaluate`."""
    data = load_dataset(dataset, params, paths)
    if data.metrics is None:
        return []
    found = {"": metrics_table(data), "_comparisons": data.comparisons, "_systems": data.compare}
    found = {paths.results / f"{dataset}{end}.csv.gz": table for end, table in found.items()}
    written = {path: table for path, table in found.items() if table is not None}
    for path, table in written.items():
        with atomic_write(path) as partial:  # no time: the same bytes
            partial.write_bytes(gzip.compress(csv_text(table).encode(), mtime=0))
    return [*written]


def metrics_table(data: Dataset) -> pd.DataFrame:
    """Return every metric by seed and over all seeds (seed "all").

    The paper's figures are in columns of their own, `quoted_<architecture>`, in the rows of
    accuracy over all seeds on the published split, the only ones they may be compared with.
    """
    table = data.metrics[[c for c in COLUMNS if c in data.metrics]].copy()
    table["fraction"] = table["fraction"].astype(float).round(4)
    for architecture in paper_tables()["architecture"].unique():
        run = data.counterpart(architecture)
        if run:
            key = dict(zip(COLUMNS[:4], (*PUBLISHED, *run), strict=True))
            mine = select(table, **key, seed=-1, metric="accuracy")["fraction"]
            name = f"quoted_{architecture}"
            table[name] = np.nan
            table.loc[mine.index, name] = mine.map(data.quoted.get(architecture, {}))
    table = table.sort_values(list(COLUMNS[:7]), kind="stable")
    return table.assign(seed=table["seed"].astype(str).replace("-1", "all"))


def write_external(params: Params, paths: Paths, dataset: str, name: str) -> Path:
    """Write `external_<name>.csv`: accuracy on a publisher's split, on all test images, without
    copies of training images, and without mirrored ones either.

    Args:
        params, paths: of the project.
        dataset: the dataset that was made from the published split, evaluated.
        name: of the file.

    Raises:
        PipelineError: it was not evaluated.
    """
    data = load_dataset(dataset, params, paths)
    if data.metrics is None:
        remedy = f"run: {command('evaluate', dataset)}"
        raise PipelineError(f"{dataset} has not been evaluated", remedy=remedy)
    rows = select(data.metrics, metric="accuracy", seed=-1)
    rows = rows[rows["protocol"].str.startswith("official")]
    runs = zip(rows["learner"], rows["view"], strict=True)
    rows = rows.assign(system=[data.run_name(run) for run in runs])
    columns = ["system", *COLUMNS[:5], "n_labels", "n_images", "value", "lo", "hi", "reweighted"]
    path = paths.results / f"external_{name}.csv"
    atomic_write_text(path, csv_text(rows[columns]))
    return path


def write_readme(params: Params, paths: Paths, datasets: Sequence[str]) -> list[Path]:
    """Write README.md (at most `LINES`), ablations.md and .csv, and the figure.

    Raises:
        PipelineError: none of the datasets was compared.
    """
    found = [load_dataset(name, params, paths) for name in datasets]
    done = [data for data in found if data.compare is not None and data.headline is not None]
    if not done:
        remedy = f"run: {command('compare', datasets[0])}"
        raise PipelineError("the systems of no dataset have been compared", remedy=remedy)
    made_by = "dvc repro && dvc repro results/dvc.yaml"
    if set(datasets) != set(params.datasets):
        made_by = " ".join(["pipeline results", *(f"--dataset {name}" for name in datasets)])
    said = [f"{data.name}: {text}" for data in done for text in warnings(data)]
    said += [
        f"{data.name} has not been compared: `{command('compare', data.name)}`"
        for data in found
        if data not in done
    ]
    values = {
        "models": models_used(done),
        "made_by": made_by,
        "commit": git_commit(Path(paths.root)),
        "synthetic": words.join(data.name for data in done if data.synthetic),
        "warnings": said,
        "answers": systems.answers(done),
        "advice": {data.name: systems.advice(data) for data in done},
        "mask_part": systems.mask_part(done),
        "other_sets": [OTHER_SET[d.name] for d in done if d.name in OTHER_SET and d.quoted],
        "reading": how_to_read(params, done),
        "add": [command("add", data.name) for data in done],
        "manifests": [(data.name, data.manifest_sha256) for data in done],
    }
    for limit in range(40, 2, -1):  # the best systems; the others are in the CSV files
        grids = [systems.grid(data, limit) for data in done]
        text = render("results.md.j2", grids=grids, **values)
        if len(text.splitlines()) <= LINES:
            break
    written = {
        "README.md": text,
        "systems.svg": forest_file({d.name: systems.bars(d) for d in done}),
        "ablations.md": render("ablations.md.j2", tables=systems.ablations(done), made_by=made_by),
    }
    if paths.ablations.is_file():
        written["ablations.csv"] = paths.ablations.read_text("utf-8")
    for name, text in written.items():
        atomic_write_text(paths.results / name, text)
    return [paths.results / name for name in written]
