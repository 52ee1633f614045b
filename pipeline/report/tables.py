"""The tables of the page and of results/README.md: rows of text, made from a dataset's files.

A line break in a cell separates a value from its interval and verdict, which are smaller on the
page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluate.mask_quality import summarise_masks
from pipeline.evaluate.predictions import image_units
from pipeline.report import words
from pipeline.report.data import (
    CLEAN_ANY,
    FLOORS,
    PUBLISHED,
    TRUTH,
    Block,
    Dataset,
    Run,
    in_manifest,
    select,
)
from pipeline.report.words import MISSING, interval, number, percent, plural, share

MOST = 100
"""Rows of a list of failures."""


class Table(NamedTuple):
    """A table of text with a caption above and a note below; the first column names the rows."""

    caption: str
    headers: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Return the headers and rows as Markdown."""
        lines = [[words.inline(text).replace("|", "\\|") for text in line] for line in self.rows]
        rule = ["---"] * len(self.headers)
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.headers, rule, *lines))


def estimate(row, scale: float = 100, digits: int = 1) -> str:
    """Write a row of metrics.parquet: its value and interval."""
    return MISSING if row is None else interval(row.value, row.lo, row.hi, scale, digits)


def difference(row) -> str:
    """Write a row of comparisons.csv in percentage points: its value and interval."""
    return interval(row.difference, row.lo, row.hi, sign=True)


def label_headers(data: Dataset, block: Block) -> list[str]:
    """Return the column heads of the shares, with the number of labels each is."""
    return [f"{share(f)} ({plural(n, 'label')})" for f, n in data.labels_used(block).items()]


def accuracy(data: Dataset, block: Block, runs: Sequence[Run], caption: str) -> Table:
    """Return runs x shares of the labels: accuracy with its interval."""
    found, rows = data.accuracy(block), []
    for run in runs:
        level = found[run].get(0.0)  # zero-shot uses no labels: the same at every share
        cells = [estimate(found[run].get(f, level)) for f in data.fractions(block)]
        rows.append([data.run_name(run), *cells])
    note = f"Mean over the seeds [{share(data.params.evaluate.confidence)} interval]."
    tested = data.tested.get(block)
    if tested is not None:
        right = f"{percent(tested.largest_share)}\N{NO-BREAK SPACE}%"
        note += f" Always answering the largest class ({tested.largest_class}) is right in {right}."
    return Table(caption, ["Run", *label_headers(data, block)], rows, note)


def few_shot(data: Dataset, block: Block, runs: Sequence[Run]) -> list[Table]:
    """Return runs x shots on a block's images, a table for each kind of `splits.shots`."""
    made = []
    for kind, counts in data.params.splits.shots.items():
        end = "" if kind == "balanced" else f"-{kind}"
        every = {k: data.accuracy((f"{block[0]}-{k}-shot{end}", block[1])) for k in counts}
        found = {k: runs_of for k, runs_of in every.items() if runs_of}
        if not found:
            continue
        heads = []
        for k, of in found.items():
            labels = round(float(np.median([by[1.0].n_labels for by in of.values()])))
            heads.append(f"{k} ({plural(labels, 'label')})")
        rows = [[data.run_name(run), *(estimate(of.get(run, {}).get(1.0)) for of in found.values())]
                for run in runs]  # fmt: skip
        caption = f"Accuracy in percent by shots a class, {kind}"
        note = "With validation images." if kind == "balanced" else "Without validation images."
        made.append(Table(caption, ["Run", *heads], rows, note))
    return made


def differences(data: Dataset, block: Block) -> Table | None:
    """Return paired differences by share of the labels: the study's runs minus the baseline, and
    all pairs of views on images with a ground-truth mask."""
    shown, rows = data.shown(block), []
    for (of, a, b), found in data.differences.items():
        known = of == block and a in shown and b in shown
        if known and (b == data.baseline or block in TRUTH):
            cells = [
                f"{difference(d)}\n{words.verdict(d)}" if d else MISSING
                for d in (found.get(f) for f in data.fractions(block))
            ]
            rows.append([f"{data.run_name(a)} − {data.run_name(b)}", *cells])
    if not rows:
        return None
    level = share(data.params.evaluate.confidence)
    note = f"[{level} interval], verdict after Holm's correction; † interval alone excludes zero."
    caption = "Paired differences in accuracy, percentage points"
    return Table(caption, ["Comparison", *label_headers(data, block)], rows, note)


def measures(data: Dataset, block: Block) -> Table:
    """Return runs x metrics with the most labels."""
    most, rows = data.fractions(block)[-1], []
    for run in data.accuracy(block):
        cells = []
        for metric, (_, scale, digits) in words.METRICS.items():
            by = data.estimates.get((block, metric), {}).get(run, {})
            cells.append(estimate(by.get(most, by.get(0.0)), scale, digits))
        rows.append([data.run_name(run), *cells])
    headers = ["Run", *(name for name, *_ in words.METRICS.values())]
    note = "ECE: expected calibration error, 0 to 1. Brier score: 0 to 2. Both: lower is better."
    return Table(f"Every measure with {words.labels(most)}", headers, rows, note)


def broken(data: Dataset) -> Table | None:
    """List the fits that failed or diverged, each with its reason."""
    bad = data.runs[data.runs["status"] != "ok"] if data.runs is not None else ()
    if not len(bad):
        return None
    rows = [
        [r.status, words.block(data, (r.protocol, "full")), data.run_name((r.learner, r.view)),
         share(r.fraction), str(r.seed), str(r.error or MISSING)]
        for r in bad.head(MOST).itertuples()
    ]  # fmt: skip
    headers = ["Status", "Protocol", "Run", "Share of labels", "Seed", "Reason"]
    caption = f"{len(bad):,} of {plural(len(data.runs), 'fit')} failed or diverged"
    return Table(caption, headers, rows, more(len(bad) - MOST))


def more(n: int) -> str:
    """Say how many of a list are not shown; "" if none."""
    return f"{n:,} more are not shown." if n > 0 else ""


def errors(data: Dataset, run: Run) -> list[Table]:
    """Return the confusion matrix of a run, and precision, recall and F1 of each class, in the
    headline's protocol with the most labels."""
    block = (data.headline[0], "full")
    fraction = data.fractions(block)[-1]
    key = {"protocol": block[0], "learner": run[0], "view": run[1], "fraction": fraction}
    made = []
    if data.confusion is not None and fraction in data.accuracy(block)[run]:
        n = select(data.confusion, **key).pivot(index="actual", columns="predicted", values="n")
        n, classes = n / data.accuracy(block)[run][fraction].n_seeds, list(n.columns)
        rows = [[name, *(f"{v:.1f}" if v else "0" for v in row)] for name, row in n.iterrows()]
        caption = "Mean count of each answer over the seeds"
        made.append(Table(caption, ["True class", *(f"called {c}" for c in classes)], rows))
    if data.per_class is not None:
        metrics = ("precision", "recall", "f1")
        rows = [
            [r["class"], f"{round(r['support']):,}"]
            + [interval(r[m], r[f"{m}_lo"], r[f"{m}_hi"]) for m in metrics]
            for _, r in select(data.per_class, **key, subset=block[1]).iterrows()
        ]
        headers = ["Class", "Test images", "Precision, %", "Recall, %", "F1, %"]
        made.append(Table("Precision, recall and F1 of each class", headers, rows))
    return [table for table in made if table.rows]


def outcomes(data: Dataset) -> Table:
    """Return classes x outcomes: the number of masks and their share of the class."""
    masks = in_manifest(data.masks)
    counts = pd.crosstab(masks["label"], masks["status"])
    counts = counts.reindex(columns=list(words.OUTCOMES), fill_value=0)
    counts.loc["all classes"] = counts.sum()
    rows = []
    for label, of in counts.iterrows():
        cells = [f"{n:,} ({percent(n / of.sum())}\N{NO-BREAK SPACE}%)" for n in of]
        rows.append([label, f"{of.sum():,}", *cells])
    headers = ["Class", "Images", *words.OUTCOMES.values()]
    return Table("Outcome of segmentation by class", headers, rows)


JUDGED = {"dice": ("Dice", 3), "iou": ("IoU", 3), "hd95": ("HD95, px", 1)}
"""Measures of mask quality: name and decimals."""


def judged(row) -> list[str]:
    """Write Dice, IoU and HD95 of a row of `summarise_masks`, with their intervals."""
    return [
        interval(*(getattr(row, f"{m}{end}") for end in ("", "_lo", "_hi")), 1, digits)
        for m, (_, digits) in JUDGED.items()
    ]


def dice(data: Dataset) -> Table:
    """Return Dice, IoU and HD95 of the stored masks by class, then of the floors."""
    rows = []
    for r in data.mask_figures:
        if r.strategy not in FLOORS or not r.label:
            title = words.FLOORS.get(r.strategy, f"stored masks ({r.strategy})")
            name = r.label or "all classes" + ", test part" * (r.split == "test")
            last = [number(r.median_dice, 3), percent(r.missed)]
            rows.append([title, name, f"{r.n_images:,}", *judged(r), *last])
    table = data.stored_quality
    reasons = table.loc[table["dice"].isna(), "note"].str.split(":").str[0].value_counts()
    note = "HD95: 95th percentile of the distance between the outlines, over non-empty masks."
    if len(reasons):
        listed = words.join(f"{name} {n:,}" for name, n in sorted(reasons.items()))
        note += f" Images without a figure, left out of every mean: {listed}."
    headers = ["Masks", "Class", "Images", *(name for name, _ in JUDGED.values())]
    headers += ["Median Dice", "Dice < 0.1, %"]
    return Table("Masks compared with ground truth", headers, rows, note)


def prompts(data: Dataset) -> Table | None:
    """Return every prompt strategy: those without ground truth first, the best first."""
    quality = data.prompt_quality
    if quality is None or quality.empty:
        return None
    units = {} if data.manifest is None else image_units(data.manifest, data.copies)
    summary = summarise_masks(quality, units, data.params.evaluate)
    summary = select(summary, split="all", label="")
    summary["truth"] = summary["strategy"].map(quality.groupby("strategy")["from_truth"].first())
    rows = []
    for r in summary.sort_values(["truth", "dice"], ascending=[True, False]).itertuples():
        rows.append([r.strategy, "yes" if r.truth else "no", f"{r.n_images:,}", *judged(r)])
    headers = ["Strategy", "Uses the ground truth", "Images"]
    headers += [name for name, _ in JUDGED.values()]
    note = "Strategies that use the ground truth are references; no classified mask is made so."
    return Table("Every prompt strategy on a sample of images", headers, rows, note)


def copies(data: Dataset) -> Table | None:
    """Return how many test images have a copy in train, and what the baseline loses without."""
    if data.test_copies is None:
        return None
    names = ("test images", "with a copy in training", "the same, mirrored or rotated copies too")
    rows = [
        [name, f"{n:,}", percent(n / max(data.test_copies[0], 1))]
        for name, n in zip(names, data.test_copies, strict=True)
    ]
    note = ""
    full, clean = (data.accuracy(b).get(data.baseline, {}) for b in (PUBLISHED, CLEAN_ANY))
    most = max(clean, default=0)
    if CLEAN_ANY in data.blocks and most and np.isfinite(clean[most].reweighted):
        note = (
            f"Baseline with all labels: {percent(full[most].value)} % on the whole test part, "
            f"{percent(clean[most].value)} % without copies. Weighted to the classes of the "
            f"latter, the whole part reaches {percent(clean[most].reweighted)} %; only the rest "
            "of the difference can be due to copies."
        )
    headers = ["Published split", "Images", "% of test"]
    return Table("Test images with a copy in training", headers, rows, note)


def paper(data: Dataset) -> Table:
    """Return the paper's table, labelled as quoted, next to our runs on the published split."""
    shares = list(next(iter(data.quoted.values())))
    rows = []
    for architecture, points in data.quoted.items():
        run = data.counterpart(architecture)
        mine = data.accuracy(PUBLISHED).get(run, {})
        name = data.run_name(run) if mine else MISSING
        cells = [percent(points[f], 2) for f in shares]
        rows.append([architecture, *cells, name, *(estimate(mine.get(f)) for f in shares)])
    headers = ["Architecture in the paper", *(f"quoted, {share(f)}" for f in shares)]
    headers += ["Our run", *(f"ours, {share(f)}" for f in shares)]
    caption = "Accuracy in percent: quoted from the paper, and ours on the published split"
    return Table(caption, headers, rows)


def failures(data: Dataset) -> Table | None:
    """List every failed image by stage, with its reason; that of the store counts."""
    found: dict[tuple[str, str], str] = {}
    for stage, store in (("segment", data.masks), ("encode", data.features)):
        if store is not None:
            for image_id, r in select(in_manifest(store), status="failed").iterrows():
                found[stage, str(image_id)] = str(r.get("reason") or "no reason recorded")
    for stage, record in data.records.items():
        for image_id, reason in (record.get("failed") or {}).items():
            found.setdefault((stage, str(image_id)), str(reason))
    rows = [(*key, reason) for key, reason in sorted(found.items())]
    if not rows:
        return None
    caption, headers = plural(len(rows), "failure"), ["Stage", "Image", "Reason"]
    return Table(caption, headers, rows[:MOST], more(len(rows) - MOST))
