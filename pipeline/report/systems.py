"""The comparison of all systems, as the page and results/ show it: compare.parquet as tables.

All figures are those of `pipeline compare`; nothing is computed here but which row stands where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.evaluate.comparison import MEAN, over_sets
from pipeline.report import words
from pipeline.report.data import PUBLISHED, Dataset, select
from pipeline.report.plots import Bar
from pipeline.report.tables import Table, difference
from pipeline.report.words import MISSING, percent, share

QUOTED = "Quoted from the paper, other data split"
KINDS = {"whole": "", "mask": "mask", "control": "random control", "truth": "true mask"}


class Step(NamedTuple):
    """A number of labels: the key of its rows, its head in a table, and its labels."""

    protocol: str
    fraction: float
    head: str
    n_labels: int


def steps(data: Dataset) -> list[Step]:
    """Return the shares of the headline's protocol, rising, then the shots a class."""
    table = select(data.systems, split=data.headline[0])
    table = table[table["fraction"] > 0].sort_values(["shots", "realistic", "fraction"])
    found = []
    for (shots, realistic, fraction, protocol), of in table.groupby(
        ["shots", "realistic", "fraction", "protocol"], sort=False
    ):
        head = share(fraction) if not shots else words.plural(shots, "shot")
        head += ", imbalanced" if realistic else ""
        found.append(Step(protocol, fraction, head, round(of["n_labels"].median())))
    return found


def rows_at(data: Dataset, protocol: str, fraction: float) -> dict[str, Any]:
    """Return {system: row of compare.parquet} on all test images, in the order of the study; no
    mean over fewer shares than others have, which would be of harder tasks."""
    rows = select(data.systems, protocol=protocol, fraction=fraction).sort_values("number")
    rows = rows[rows["n_fractions"] == rows["n_fractions"].max()]
    return {row.name: row for row in rows.itertuples(index=False)}


def grid(data: Dataset, limit: int = 10**6) -> Table:
    """Return the table of a dataset: systems, the best in the mean over shares first, by shares and
    shots, with the paper's figures in a column of their own.

    Args:
        data: a dataset with compare.parquet.
        limit: number of rows; the first three systems of the study and those that the paper quotes
            are kept, then the best.
    """
    protocol = data.headline[0]
    zero, means = (rows_at(data, protocol, fraction) for fraction in (0.0, MEAN))
    columns = [(step, rows_at(data, *step[:2])) for step in steps(data)]
    fractions = data.fractions(PUBLISHED) if protocol != PUBLISHED[0] else []
    published = [rows_at(data, PUBLISHED[0], f) for f in fractions]
    known = zero | {name: row for _, of in columns for name, row in of.items()} | means
    # Those with fewer shares of the labels have no mean: last.
    order = sorted(known, key=lambda n: (n not in means | zero, -known[n].accuracy))
    runs = {architecture: data.counterpart(architecture) for architecture in data.quoted}
    quoted = {data.run_name(run): [*data.quoted[a].values()] for a, run in runs.items() if run}
    first = sorted(order, key=lambda name: known[name].number >= 3 and name not in quoted)
    kept = {name: known[name] for name in order if name in set(first[:limit])}
    made = {"System": [*kept], "Sees": [KINDS[row.kind] for row in kept.values()]}
    for step, of in [*columns, (None, means)]:
        head = f"{step.head} ({step.n_labels:,})" if step else "Mean over shares"
        made[head] = [marked(of.get(name, zero.get(name))) for name in kept]
    minus = f"Mean minus {data.run_name(data.baseline)}"
    made[minus] = [gap(means.get(name), "baseline") for name in kept]
    ours = [[of.get(name, zero.get(name)) for of in published] for name in kept]
    shares = f"{words.block(data, PUBLISHED)}, by share"
    made[shares] = [series([row and row.accuracy for row in of]) for of in ours]
    made[QUOTED] = [series(quoted.get(name, [])) for name in kept]
    made["Parameters trained"] = [words.count(row.n_parameters) for row in kept.values()]
    made["Seconds a fit"] = [words.number(row.seconds, 1) for row in kept.values()]
    made = {head: of for head, of in made.items() if not {*of} <= {"", MISSING}}
    left = len(order) - len(kept)
    note = f"{words.plural(left, 'more system')} in {data.name}_systems.csv.gz." if left else ""
    caption = (
        f"All systems on {data.name}: accuracy in percent by share of labels and shots a class"
    )
    return Table(caption, [*made], [*zip(*made.values(), strict=True)], note)


def series(values: Sequence[float | None]) -> str:
    """Write accuracies by share of the labels: "66.5 / 73.1"."""
    shown = [MISSING if v is None else percent(v) for v in values]
    return " / ".join(shown) if any(v is not None for v in values) else MISSING


def marked(row: Any | None) -> str:
    """Write an accuracy, marked where it differs from the baseline beyond chance."""
    return MISSING if row is None else percent(row.accuracy) + words.mark(row.baseline_verdict)


def gap(row: Any | None, group: str) -> str:
    """Write the difference to another row with interval and mark; "–" where there is none."""
    bar = bar_of(row, group)
    return words.inline(difference(bar)) + words.mark(bar.verdict) if bar else MISSING


def bar_of(row: Any | None, group: str) -> Bar | None:
    """Return the difference of a row to the one of a group, `baseline`, `best` or `control`."""
    if row is None or not getattr(row, f"{group}_name"):
        return None
    return Bar(*(getattr(row, f"{group}_{of}") for of in ("difference", "lo", "hi", "verdict")))


def bars(data: Dataset) -> dict[str, Bar]:
    """Return the rows of the forest plot, the highest first: differences to the best system that
    sees no mask, in the mean over shares."""
    of = {name: bar_of(row, "best") for name, row in rows_at(data, data.headline[0], MEAN).items()}
    return dict(sorted(((n, b) for n, b in of.items() if b), key=lambda item: -item[1].difference))


def advice(data: Dataset) -> list[str]:
    """Say which system to use with a few shots a class and with shares of the labels: the one with
    the highest mean validation accuracy there, of those that need no true mask and are no control.
    """
    said = []
    for few in (True, False):
        found: dict[str, list[tuple[Step, Any]]] = {}
        for step in (step for step in steps(data) if few == ("shot" in step.head)):
            at = rows_at(data, *step[:2])
            seeds = max(row.n_seeds for row in at.values())  # fewer are best by chance more often
            for name, row in at.items():
                judged = row.val_accuracy >= 0 and row.n_seeds == seeds
                if row.kind in ("whole", "mask") and judged:
                    found.setdefault(name, []).append((step, row))
        # At most steps, the highest mean; the first of the study on ties.
        rank = {
            name: (len(of), sum(row.val_accuracy for _, row in of) / len(of))
            for name, of in found.items()
        }
        if rank:
            best = max(rank, key=rank.get)
            said.append(words.advice(best, found[best]))
    return said


def answers(datasets: Sequence[Dataset]) -> list[str]:
    """Answer whether the mask earns its place, from all datasets in grouped cross-validation."""
    table = over_sets(datasets[0].paths, [data.name for data in datasets])
    rows = [] if table.empty else [*select(table, protocol="grouped").itertuples(index=False)]
    return words.target(rows, datasets[0].run_name(datasets[0].baseline)) if rows else []


def mask_part(datasets: Sequence[Dataset]) -> Table | None:
    """Return views x datasets: what a view with the mask gains over the same view with a random
    region or crop, in the mean over shares; only that is the mask's."""
    found = [
        (f"{row.name} − {row.control_name}", data.name, gap(row, "control"))
        for data in datasets
        for row in rows_at(data, data.headline[0], MEAN).values()
        if row.kind == "mask" and row.control_name
    ]
    return _by_dataset("The mask's part: systems minus their random controls", found, datasets)


PROTOCOLS, ON_TRUTH = ("grouped", "official"), ("grouped_truth", "ground_truth")
ABLATIONS = {
    "The mask alone": (PROTOCOLS, ("whole", "masked", "binary")),
    "What is left outside the mask": (PROTOCOLS, ("masked", "grey", "blur", "dim")),
    "True masks and random regions": (ON_TRUTH, ("whole", "masked", "oracle", "random")),
}
"""Tables of the baseline's learner on some views, in the first of some protocols that has them."""


def ablations(datasets: Sequence[Dataset]) -> list[Table]:
    """Return a small table for each ablation that was run, variants x datasets: accuracy in the
    mean over shares, marked against whole images. Some are rows of the study, the others are made
    by `pipeline ablate`."""
    made = []
    for title, (protocols, views) in ABLATIONS.items():
        found = []
        for data in datasets:
            table = data.systems[data.systems["learner"] == data.baseline[0]]
            for protocol in protocols:
                rows = select(table, protocol=protocol, fraction=MEAN)
                rows = rows[rows["view"].isin(views)].sort_values("number")
                if not {*rows["view"]} <= {"whole", "masked"}:
                    found += [(words.view(r.view), data.name, marked(r)) for r in rows.itertuples()]
                    break
        made.append(_by_dataset(title, found, datasets))
    path = datasets[0].paths.ablations if datasets else None
    if path and path.is_file():
        csv = pd.read_csv(path, dtype={"variant": str})
        for title, of in csv.groupby("ablation", sort=False):
            found = [
                (f"{r.variant} ({r.name})", r.dataset, f"{marked(r)}, {gap(r, 'baseline')}")
                for r in of.itertuples(index=False)
            ]
            made.append(_by_dataset(title, found, datasets))
    return [table for table in made if table]


def _by_dataset(
    title: str, found: Sequence[tuple[str, str, str]], datasets: Sequence[Dataset]
) -> Table | None:
    """Return the table of cells (row, dataset, text); None without any."""
    names = [name for name in (d.name for d in datasets) if name in {of[1] for of in found}]
    cells = {(row, name): text for row, name, text in found}
    rows = [[row, *(cells.get((row, name), MISSING) for name in names)]
            for row in dict.fromkeys(of[0] for of in found)]  # fmt: skip
    return Table(title, ["", *names], rows) if rows else None
