"""Sections on accuracy: curves, tables, differences, errors by class, calibration, the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.report import words
from pipeline.report.blocks import (
    MISSING,
    Cell,
    Choice,
    Confusion,
    ConfusionCell,
    Fold,
    Gallery,
    Grid,
    Plot,
    Points,
    Section,
    Table,
    Text,
    head,
    interval_cell,
    is_known,
    more_text,
    number,
    percent,
    plural,
    share,
    slug,
)
from pipeline.report.data import (
    CLEAN_ANY,
    GROUPED,
    PUBLISHED,
    TRUTH,
    Block,
    Dataset,
    Difference,
    Estimate,
    Run,
)
from pipeline.report.paper import OTHER_SET, quoted_table
from pipeline.report.pictures import Album
from pipeline.report.plots import FEW, Curve, Style, curves, reliability

PER_CELL = 6
MOST_BROKEN, MOST_NOTES = 50, 8


@dataclass(frozen=True)
class Runs:
    """The names and styles of runs, the same all over the page.

    Attributes:
        names: of the study's runs, in its order.
        looks: of every run of any dataset; the study's runs come first.
    """

    names: dict[Run, str]
    looks: dict[Run, Style]

    def name(self, run: Run) -> str:
        """Return the study's name of a run, or its learner and view in words."""
        return self.names.get(run) or words.run(*run)


def section(data: Dataset, runs: Runs) -> Section | None:
    """Draw accuracy over the share of labels for each protocol, with every figure behind it."""
    blocks = [b for b in data.blocks if b not in TRUTH and not b[0].startswith("ground_truth")]
    blocks = [b for b in blocks if not b[0].startswith("grouped_truth") and data.fractions(b)]
    if not blocks:
        return None
    options = [(words.block(data, b), protocol(data, b, runs)) for b in blocks]
    made = Section("accuracy", words.ACCURACY, words.ACCURACY_SUMMARY, open=True)
    made.blocks = [Choice(slug(data.name, "protocol"), words.PROTOCOL, options)]
    made.blocks += broken_runs(data, runs)
    if data.notes:
        notes = [words.plan_note(data, note) for note in data.notes]
        made.blocks.append(Fold(words.PLAN_NOTES, [Points(notes)]))
    return made


def protocol(data: Dataset, block: Block, runs: Runs) -> list:
    """Return the curve of the study's runs on one protocol and the tables of all its figures."""
    found = data.accuracy(block)
    shown = [run for run in runs.names if run in found]
    quoted = {} if block != PUBLISHED else with_counterpart(data, runs)
    title = f"{data.name}: {words.block(data, block)}"
    name = slug("curve", data.name, *block)
    made = [
        Text(words.about_block(data, block), "note"),
        Plot(words.CURVE, curve_svg(name, title, data, block, shown, runs, quoted)),
        accuracy_table(data, block, shown, runs, words.STUDY_TABLE),
    ]
    differences = difference_table(data, block, runs)
    made += [differences] if differences else []
    measures = measures_table(data, block, runs)
    made.append(Fold(words.ALL_RUNS, [accuracy_table(data, block, list(found), runs), measures]))
    notes = sorted({e.note for by in found.values() for e in by.values() if e.note})
    parts = list(dict.fromkeys(part for note in notes for part in note.split("; ")))
    made += [Text(words.NOTES.format("; ".join(parts[:MOST_NOTES])), "note")] if parts else []
    return made


def curve_svg(
    name: str,
    title: str,
    data: Dataset,
    block: Block,
    shown: Sequence[Run],
    runs: Runs,
    quoted: dict | None = None,
    *,
    small: bool = False,
):
    """Draw the accuracy of some runs on a block, with the level of the largest class."""
    found = data.accuracy(block)
    lines = []
    for run in shown:
        level = not any(f > 0 for f in found[run])
        points = {f: (e.value, e.lo, e.hi) for f, e in found[run].items() if level or f > 0}
        lines.append(Curve(runs.name(run), points, runs.looks[run], level))
    largest = largest_class(data, block)
    levels = {} if largest is None else {words.LARGEST_CLASS: largest[1]}
    labels = {f: labels_used(data, block, f) for f in data.fractions(block)}
    return curves(name, title, lines, labels=labels, quoted=quoted, levels=levels, small=small)


def labels_used(data: Dataset, block: Block, fraction: float) -> int | None:
    """Return how many labels a share is (training and validation, the median over the runs)."""
    used = [by[fraction].n_labels for by in data.accuracy(block).values() if fraction in by]
    return round(float(np.median(used))) if used else None


def largest_class(data: Dataset, block: Block) -> tuple[str, float] | None:
    """Return the most frequent class of a block's test images and its share of them."""
    row = data.tested.get(block)
    return None if row is None else (row.largest_class, float(row.largest_share))


def labels_headers(data: Dataset, block: Block) -> list[str]:
    """Return the column heads of the shares, with the number of labels each is."""
    used = {f: labels_used(data, block, f) for f in data.fractions(block)}
    return [words.LABELS_HEADER.format(share(f), plural(n or 0, "label")) for f, n in used.items()]


def estimate_cell(estimate: Estimate | None, **look) -> Cell:
    """Return the cell of an estimate in percent."""
    if estimate is None:
        return Cell(MISSING, look="number")
    return interval_cell(estimate.value, estimate.lo, estimate.hi, **look)


def accuracy_table(
    data: Dataset, block: Block, shown: Sequence[Run], runs: Runs, caption: str = words.ALL_RUNS
) -> Table:
    """Return runs x shares of the labels: accuracy with its interval."""
    found, fractions = data.accuracy(block), data.fractions(block)
    rows = []
    for run in shown:
        level = found[run].get(0.0)  # zero-shot uses no labels: the same at every share
        cells = [estimate_cell(found[run].get(f, level)) for f in fractions]
        rows.append([head(runs.name(run)), *cells])
    largest = largest_class(data, block)
    note = words.ACCURACY_NOTE.format(share(data.params.evaluate.confidence))
    if largest:
        note += words.ALWAYS_LARGEST.format(largest[0], percent(largest[1]))
    return Table([words.RUN, *labels_headers(data, block)], rows, caption, note)


def measures_table(data: Dataset, block: Block, runs: Runs) -> Table:
    """Return runs x metrics with the most labels."""
    most = data.fractions(block)[-1]
    rows = []
    for run, by in data.accuracy(block).items():
        row: list = [head(runs.name(run))]
        for metric, (_, scale, digits) in words.METRICS.items():
            of_run = data.estimates.get((block, metric), {}).get(run, {})
            found = of_run.get(most, of_run.get(0.0))
            row.append(estimate_cell(found, scale=scale, digits=digits))
        rows.append(row if by else row[:1])
    headers = [words.RUN, *(name for name, *_ in words.METRICS.values())]
    return Table(
        headers, rows, words.MEASURES_CAPTION.format(words.labels(most)), words.MEASURES_NOTE
    )


def difference_cell(d: Difference | None) -> Cell:
    """Return the cell of a difference in percentage points, its interval and verdict."""
    if d is None or not is_known(d.value):
        return Cell(MISSING, look="number")
    made = interval_cell(d.value, d.lo, d.hi, sign=True)
    text = made.text + Markup('<span class="says">{}</span>').format(words.marked_verdict(d))
    return Cell(text, d.value, f"number verdict {slug(d.verdict)}")


def difference_table(data: Dataset, block: Block, runs: Runs) -> Table | None:
    """Return every run of the study minus the baseline, by share of the labels."""
    baseline = data.params.study.baseline.key
    return pairs_table(data, block, [(run, baseline) for run in runs.names], runs)


def pairs_table(
    data: Dataset, block: Block, pairs: Sequence[tuple[Run, Run]], runs: Runs
) -> Table | None:
    """Return paired differences by share of the labels; None where none was compared."""
    rows = []
    for a, b in pairs:
        found = data.differences.get((block, a, b))
        if found:
            cells = [difference_cell(found.get(f)) for f in data.fractions(block)]
            rows.append([head(words.MINUS.format(runs.name(a), runs.name(b))), *cells])
    if not rows:
        return None
    headers = [words.COMPARISON, *labels_headers(data, block)]
    note = words.DIFFERENCES_NOTE.format(share(data.params.evaluate.confidence))
    return Table(headers, rows, words.DIFFERENCES, note)


def broken_runs(data: Dataset, runs: Runs) -> list:
    """List the runs that failed or diverged, each with its reason."""
    if data.runs is None:
        return []
    bad = data.runs[data.runs["status"] != "ok"]
    if bad.empty:
        return []
    rows = [
        [
            Cell(r.status, look="bad"),
            words.PROTOCOLS.get(r.protocol, r.protocol),
            head(runs.name((r.learner, r.view))),
            share(r.fraction),
            int(r.seed),
            str(r.error or MISSING),
        ]
        for r in bad.head(MOST_BROKEN).itertuples()
    ]
    text = words.BROKEN_RUNS.format(len(bad), plural(len(data.runs), "fit"))
    more = more_text(len(bad) - MOST_BROKEN)
    return [Text(text, "warning"), Table(words.BROKEN_HEADERS, rows, words.BROKEN, more)]


def truth_section(data: Dataset, runs: Runs) -> Section | None:
    """Compare the views of the baseline's learner on images with a ground-truth mask."""
    learner, whole = data.params.study.baseline.key
    looks = sorted((r for r in runs.looks if r[0] == learner), key=lambda r: r[1] != whole)
    views = Runs({run: words.VIEWS.get(run[1], run[1]) for run in looks}, runs.looks)
    options = []
    for block in TRUTH:
        shown = [run for run in looks if run in data.accuracy(block)]
        if not data.fractions(block) or len(shown) < 2:
            continue
        name = slug("truth", data.name, *block)
        title = f"{data.name}: {words.block(data, block)}"
        pairs = [(a, b) for i, b in enumerate(shown) for a in shown[i + 1 :]]
        tables = [accuracy_table(data, block, shown, views, words.TRUTH_TABLE)]
        tables += filter(None, [pairs_table(data, block, pairs, views)])
        tested = data.tested.get(block)
        lacking = tested.missing_classes if tested is not None else ""
        made = [Text(words.NO_TEST_IMAGE.format(lacking), "note")] if lacking else []
        made += [
            Plot(words.TRUTH_CURVE, curve_svg(name, title, data, block, shown, views)),
            *tables,
        ]
        options.append((words.block(data, block), made))
    if not options:
        return None
    choice = Choice(slug(data.name, "truth"), words.PROTOCOL, options)
    blocks = [Text(words.TRUTH_TEXT), choice]
    return Section("ceiling", words.TRUTH_SECTION, words.TRUTH_SUMMARY, blocks)


def errors_section(data: Dataset, album: Album, runs: Runs) -> Section | None:
    """Show a confusion matrix and precision, recall and F1 by class, for each run of the study."""
    if data.headline is None:
        return None
    block = (data.headline[0], "full")
    most = data.fractions(block)[-1]
    options = []
    for run in (r for r in runs.names if r in data.accuracy(block)):
        made = [
            confusion(data, block[0], run, most, album, runs),
            class_table(data, block, run, most),
        ]
        if any(made):
            options.append((runs.name(run), list(filter(None, made))))
    if not options:
        return None
    choice = Choice(slug(data.name, "errors"), words.RUN, options)
    where = Text(words.shown_on(data, block, most, data.test_copies), "note")
    summary = words.ERRORS_SUMMARY.format(words.labels(most))
    return Section("errors", words.ERRORS, summary, [where, choice])


def confusion(
    data: Dataset, protocol: str, run: Run, fraction: float, album: Album, runs: Runs
) -> Confusion | None:
    """Return the mean confusion matrix over the seeds; its cells open the images in them."""
    table = data.confusion
    if table is None:
        return None
    chosen = (table["protocol"] == protocol) & (table["learner"] == run[0])
    chosen &= (table["view"] == run[1]) & (abs(table["fraction"] - fraction) < 1e-4)
    cells = table[chosen].set_index(["actual", "predicted"])["n"]
    if cells.empty:
        return None
    images = data.cell_images(protocol, run, fraction)
    seeds = max(1, data.seeds(protocol, run, fraction))
    classes = sorted({name for pair in cells.index for name in pair})
    rows, recalls = [], []
    for actual in classes:
        total = sum(float(cells.get((actual, p), 0)) for p in classes)
        row = []
        for predicted in classes:
            n = float(cells.get((actual, predicted), 0))
            inside = images.get((actual, predicted), [])
            label = words.CONFUSION_LABEL.format(actual, predicted, plural(len(inside), "image"))
            pictures = [
                album.picture(i, words.CELL_CAPTION.format(k, plural(seeds, "seed"), number(p)))
                for i, k, p in inside[:PER_CELL]
            ]
            gallery = Gallery(label, pictures, more=len(inside) - len(pictures))
            text = number(n / seeds, 1) if n else "0"
            row.append(
                ConfusionCell(
                    text, n / total if total else 0.0, actual == predicted, label,
                    gallery if pictures else None,
                )
            )  # fmt: skip
        rows.append(row)
        right = float(cells.get((actual, actual), 0))
        recalls.append(f"{percent(right / total) if total else MISSING}")
    name = slug("confusion", data.name, *run)
    return Confusion(name, words.CONFUSION_CAPTION.format(runs.name(run)), classes, rows, recalls)


def class_table(data: Dataset, block: Block, run: Run, fraction: float) -> Table | None:
    """Return precision, recall and F1 of each class with their intervals."""
    table = data.per_class
    if table is None:
        return None
    chosen = (table["protocol"] == block[0]) & (table["subset"] == block[1])
    chosen &= (table["learner"] == run[0]) & (table["view"] == run[1])
    chosen &= abs(table["fraction"] - fraction) < 1e-4
    rows = [
        [head(r["class"]), round(r["support"])]
        + [interval_cell(r[m], r.get(f"{m}_lo"), r.get(f"{m}_hi")) for m in words.CLASS_METRICS]
        for _, r in table[chosen].iterrows()
    ]
    headers = [words.CLASS, words.TEST_IMAGES, *words.CLASS_METRICS.values()]
    return Table(headers, rows, words.CLASS_CAPTION) if rows else None


def calibration_section(data: Dataset, runs: Runs) -> Section | None:
    """Show reliability diagrams and the calibration error of the study's runs."""
    if data.headline is None or data.reliability is None:
        return None
    block = (data.headline[0], "full")
    fractions = data.fractions(block)
    plots = []
    for fraction in dict.fromkeys((fractions[0], fractions[-1])):
        series, rows = {}, []
        t = data.reliability
        t = t[(t["protocol"] == block[0]) & (abs(t["fraction"] - fraction) < 1e-4)]
        for run, name in runs.names.items():
            mine = t[(t["learner"] == run[0]) & (t["view"] == run[1]) & (t["n"] > 0)]
            if len(mine):
                values = [mine[c].to_numpy(float) for c in ("confidence", "accuracy", "n")]
                series[name] = (runs.looks[run], *values)
                rows += [
                    [
                        head(name),
                        Cell(percent(c), c, "number"),
                        Cell(percent(a), a, "number"),
                        int(n),
                    ]
                    for c, a, n in zip(*values, strict=True)
                ]
        if series:
            title = words.RELIABILITY_TITLE.format(words.labels(fraction))
            drawn = reliability(slug("calibration", data.name, str(fraction)), title, series)
            plots.append(Plot(title, drawn, Table(words.BIN_HEADERS, rows)))
    if not plots:
        return None
    rows = [
        [head(name), *(estimate_cell(by.get(f), scale=1, digits=3) for f in fractions)]
        for run, name in runs.names.items()
        if (by := data.estimates.get((block, "ece"), {}).get(run))
    ]
    headers = [words.RUN, *labels_headers(data, block)]
    errors = Table(headers, rows, words.ECE_CAPTION, words.ECE_NOTE.format(FEW))
    where = Text(words.shown_on(data, block, None, data.test_copies), "note")
    blocks = [where, Grid(plots), errors]
    return Section("calibration", words.CALIBRATION, words.CALIBRATION_SUMMARY, blocks)


def with_counterpart(data: Dataset, runs: Runs) -> dict[str, dict[float, float]]:
    """Return the quoted rows of the paper that a run of the study answers."""
    return {name: row for name, row in data.quoted.items() if counterpart(name, data, runs)}


def counterpart(architecture: str, data: Dataset, runs: Runs) -> Run | None:
    """Return our run for an architecture of the paper.

    It is the run of the study with the same name; for CLIP, the baseline.
    """
    named = {name: run for run, name in runs.names.items()}
    return named.get(architecture) or (
        data.params.study.baseline.key if architecture == "CLIP" else None
    )


def quoted_section(data: Dataset, runs: Runs) -> Section | None:
    """Show the paper's table, labelled as quoted, next to our runs on the published split."""
    if not data.quoted:
        return None
    shares = list(next(iter(data.quoted.values())))
    found = data.accuracy(PUBLISHED)
    rows = []
    for architecture, points in data.quoted.items():
        run = counterpart(architecture, data, runs)
        mine = found.get(run, {}) if run else {}
        cells = [Cell(percent(points[f], 2), points[f], "number quoted") for f in shares]
        ours = [estimate_cell(mine.get(f)) for f in shares]
        rows.append([head(architecture), *cells, runs.name(run) if mine else None, *ours])
    headers = [
        words.ARCHITECTURE,
        *(Cell(words.QUOTED_HEADER.format(share(f)), look="quoted") for f in shares),
    ]
    headers += [words.OUR_RUN, *(words.OURS_HEADER.format(share(f)) for f in shares)]
    blocks: list = [Text(words.quoted_text(data, quoted_table(data.name)))]
    if data.name in OTHER_SET:
        blocks.append(Text(words.OTHER_SET[data.name], "warning"))
    blocks.append(Table(headers, rows, words.QUOTED_CAPTION))
    return Section("paper", words.QUOTED_SECTION, words.QUOTED_SUMMARY, blocks)


def glance(done: Sequence[Dataset], runs: Runs) -> Table:
    """Return datasets and splits x runs at the fewest and the most labels."""
    at = sorted({f for d in done for b in d.blocks for f in d.fractions(b)})
    at = list(dict.fromkeys((at[0], at[-1])))
    rows = []
    for data in done:
        for block in (b for b in (GROUPED, CLEAN_ANY, PUBLISHED) if b in data.blocks):
            found, largest = data.accuracy(block), largest_class(data, block)
            row: list = [head(data.name), words.block(data, block)]
            row.append(Cell(percent(largest[1]), largest[1], "number") if largest else None)
            row += [estimate_cell(found.get(run, {}).get(f)) for run in runs.names for f in at]
            rows.append(row)
    headers = [words.DATASET, words.SPLIT, words.LARGEST_CLASS]
    headers += [f"{name}, {share(f)}" for name in runs.names.values() for f in at]
    return Table(headers, rows, words.GLANCE, words.glance_note(done))
