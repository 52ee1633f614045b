"""The published results: results/README.md with one table and one figure, and CSV files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.io import atomic_write, atomic_write_text
from pipeline.paths import Paths
from pipeline.report import words
from pipeline.report.accuracy import Runs, counterpart, labels_used, largest_class
from pipeline.report.blocks import MISSING, Table, interval_text, join, percent, share
from pipeline.report.build import study_runs
from pipeline.report.checks import git_commit, warnings
from pipeline.report.data import PUBLISHED, Block, Dataset, command, load_dataset
from pipeline.report.paper import architectures
from pipeline.report.pictures import Album
from pipeline.report.plots import Curve, multiples

FIGURE = "accuracy.svg"
COLUMNS = (
    "protocol", "subset", "learner", "view", "fraction", "seed", "metric", "value", "lo", "hi",
    "t_lo", "t_hi", "n_labels", "n_images", "note",
)  # fmt: skip
MADE_BY = "dvc repro && dvc repro results/dvc.yaml"


def write_results(
    params: Params, paths: Paths, datasets: Sequence[str] | None = None
) -> list[Path]:
    """Write the CSV files of some datasets, and README.md and the figure of all; return the paths.

    Args:
        params: the runs of the study and the datasets of the README.
        paths: the project folder; everything goes to `paths.results`.
        datasets: names; default `params.datasets`. Further ones are added to the README.
    """
    asked = list(datasets or params.datasets)
    written = [path for name in asked for path in write_tables(params, paths, name)]
    return written + write_readme(params, paths, list(dict.fromkeys([*params.datasets, *asked])))


def write_tables(params: Params, paths: Paths, dataset: str) -> list[Path]:
    """Write `<dataset>.csv.gz` and `<dataset>_comparisons.csv.gz`; none before `evaluate`."""
    data = load_dataset(dataset, params, paths)
    if data.metrics is None:
        return []
    tables = {f"{dataset}.csv.gz": metrics_table(data)}
    if data.comparisons is not None:
        tables[f"{dataset}_comparisons.csv.gz"] = data.comparisons
    for name, table in tables.items():
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
        with atomic_write(paths.results / name) as partial:
            partial.write_bytes(gzip.compress(text.encode(), mtime=0))  # no time: the same bytes
    return [paths.results / name for name in tables]


def metrics_table(data: Dataset) -> pd.DataFrame:
    """Return every metric by seed and over all seeds (seed "all").

    The paper's figures are in columns of their own, `quoted_<architecture>`, in the rows of
    accuracy over all seeds on the published split, the only ones they may be compared with.
    """
    runs = study_runs(data.params, [data])
    table = data.metrics[[c for c in COLUMNS if c in data.metrics]].copy()
    table["fraction"] = table["fraction"].astype(float).round(4)
    here = (table["protocol"] == PUBLISHED[0]) & (table["subset"] == PUBLISHED[1])
    here &= (table["metric"] == "accuracy") & (table["seed"] == -1)
    for architecture in architectures():
        run = counterpart(architecture, data, runs)
        if run:
            mine = here & (table["learner"] == run[0]) & (table["view"] == run[1])
            values = table["fraction"].map(data.quoted.get(architecture, {}))
            table[f"quoted_{architecture}"] = values.where(mine, np.nan)
    table = table.sort_values(list(COLUMNS[:7]), kind="stable")
    return table.assign(seed=table["seed"].astype(str).replace("-1", "all"))


def write_readme(params: Params, paths: Paths, datasets: Sequence[str]) -> list[Path]:
    """Write README.md and its figure.

    Raises:
        PipelineError: none of the datasets was evaluated.
    """
    found = [load_dataset(name, params, paths) for name in datasets]
    done = [data for data in found if data.headline is not None]
    if not done:
        remedy = f"run: {command('evaluate', datasets[0])}"
        raise PipelineError(words.NONE_EVALUATED, remedy=remedy)
    runs = study_runs(params, done)
    page, figure = paths.results / "README.md", paths.results / FIGURE
    atomic_write_text(figure, multiples({d.name: panel(d, runs) for d in done}))
    atomic_write_text(page, readme(found, runs, made_by(params, datasets)))
    return [page, figure]


def made_by(params: Params, datasets: Sequence[str]) -> str:
    """Return the command that makes the results of these datasets."""
    if set(datasets) == set(params.datasets):
        return MADE_BY
    return " ".join(["pipeline results", *(f"--dataset {name}" for name in datasets)])


def panel(data: Dataset, runs: Runs) -> tuple[list[Curve], list[float], float | None]:
    """Return the lines of a dataset's panel of the figure: the study's runs in the headline."""
    by = data.accuracy(data.headline)
    lines = [
        Curve(name, {f: (e.value, e.lo, e.hi) for f, e in by[run].items()}, runs.looks[run])
        for run, name in runs.names.items()
        if run in by
    ]
    largest = largest_class(data, data.headline)
    return lines, data.fractions(data.headline), largest[1] if largest else None


def readme(found: Sequence[Dataset], runs: Runs, made: str) -> str:
    """Return results/README.md: at most 150 lines."""
    done = [data for data in found if data.headline is not None]
    params = found[0].params
    commit = git_commit(Path(found[0].paths.root))
    synthetic = [data.name for data in done if data.synthetic]
    said = [f"{d.name}: {text}" for d in done for text in warnings(d, Album(d))]
    said += [
        words.NO_RESULTS.format(d.name, command("evaluate", d.name)) for d in found if d not in done
    ]
    other = [words.OTHER_SET[d.name] for d in done if d.name in words.OTHER_SET and d.quoted]
    hashes = [[d.name, f"`{d.manifest_sha256}`"] for d in done]
    models = params.models.sam2.name, params.models.clip.name
    again = [words.COMMIT.format(commit)]
    again += [command("add", d.name) for d in done]
    parts = [
        f"# {words.RESULTS}",
        words.RESULTS_MADE.format(made, commit, params.profile, *models, params.segment.prompt),
        f"> {words.SYNTHETIC_SETS.format(join(synthetic))}" if synthetic else "",
        *(f"> {text}" for text in said),
        f"![{words.FIGURE_ALT}]({FIGURE})",
        words.FIGURE_CAPTION,
        results_table(done, runs).markdown(),
        " ".join([words.RESULTS_NOTE, *other]),
        f"## {words.READING}",
        "\n".join(f"- {text}" for text in words.how_to_read(params)),
        f"## {words.FILES}",
        words.FILES_TEXT,
        f"## {words.AGAIN}",
        words.AGAIN_TEXT,
        "```sh\n" + "\n".join([*again, made]) + "\n```",
        Table([words.DATASET, words.MANIFEST_SHA256], hashes).markdown(),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def results_table(done: Sequence[Dataset], runs: Runs) -> Table:
    """Return datasets, splits and shares of the labels x runs, with intervals and verdicts."""
    quoted = dict.fromkeys(name for d in done for name in d.quoted if counterpart(name, d, runs))
    rows = []
    for data in done:
        for block in dict.fromkeys((data.headline, PUBLISHED)):
            if block in data.blocks:
                rows += block_rows(data, block, runs, list(quoted))
    headers = [words.DATASET, words.SPLIT, words.LABELS, *runs.names.values()]
    return Table([*headers, *(words.QUOTED_NAME.format(name) for name in quoted)], rows)


def block_rows(data: Dataset, block: Block, runs: Runs, quoted: Sequence[str]) -> list[list[str]]:
    """Return the rows of one dataset and split, one a share of the labels."""
    baseline = data.params.study.baseline.key
    found = data.accuracy(block)
    rows = []
    for fraction in data.fractions(block):
        cells = []
        for run in runs.names:
            e = found.get(run, {}).get(fraction)
            text = MISSING if e is None else interval_text(*e[:3], digits=1, scale=100)
            d = data.differences.get((block, run, baseline), {}).get(fraction)
            cells.append(f"{text}, {words.marked_verdict(d)}" if d and run != baseline else text)
        points = data.quoted if block == PUBLISHED else {}
        cells += [percent(points.get(name, {}).get(fraction), 2) for name in quoted]
        labels = labels_used(data, block, fraction)
        rows.append([data.name, words.block(data, block), f"{share(fraction)} ({labels})", *cells])
    return rows


def short_table(params: Params, paths: Paths, datasets: Sequence[str] | None = None) -> str:
    """Return the table of the top-level README as Markdown: all labels, the headline's split.

    Args:
        params: the runs of the study.
        paths: the project folder.
        datasets: names; default `params.datasets`. Those without results are left out.
    """
    found = [load_dataset(name, params, paths) for name in datasets or params.datasets]
    done = [data for data in found if data.headline is not None]
    runs = study_runs(params, done)
    rows = [block_rows(d, d.headline, runs, [])[-1] for d in done]
    headers = [words.DATASET, words.SPLIT, words.LABELS, *runs.names.values()]
    return Table(headers, rows).markdown()
