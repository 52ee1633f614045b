"""The tables of the result pages that the report does not have."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report import select
from pipeline.report.answers import Difference, Run, comparisons_of
from pipeline.report.inputs import STAGES, DatasetInputs
from pipeline.report.remarks import as_published, classes_in_words
from pipeline.report.results_phrases import Block, judged_blocks, shares
from pipeline.report.results_text import ORACLE, RANDOM
from pipeline.report.results_views import OTHERS, PROBE
from pipeline.report.sections.truth_tables import prompt_names
from pipeline.report.tables import (
    NOTHING,
    Cell,
    Table,
    head,
    interval_cell,
    number,
    numeric,
    share,
)
from pipeline.segment.references import ELLIPSE

Pairs = dict[str, tuple[Run, Run]]


def verdicts_note(done: Sequence[DatasetInputs]) -> str:
    """Say what the differences of a table are, when one is called better, and on which images."""
    return (
        f"Percentage points of accuracy [{done[0].level} interval], paired over seeds and images. "
        "Better and worse: the interval excludes zero and p is below 0.05 after Holm's correction "
        "over all comparisons of the same split and share; otherwise not told apart († although "
        f"the interval alone excludes zero).{as_published(done)}"
    )


def masking_table(done: Sequence[DatasetInputs]) -> Table:
    """Return datasets x splits: what masking and the method do, with few labels and with all."""
    pairs: Pairs = {
        "probe, masked − whole": (select.MASKED_PROBE, select.BASELINE),
        "method − probe on whole": (select.METHOD, select.BASELINE),
    }
    at = ends(done)
    rows = []
    for found in done:
        for block in judged_blocks(found):
            cells = _cells(_compared(found, block, pairs), at)
            if any(cell != NOTHING for cell in cells):
                name = select.short_name(*block, drawn=found.drawn_split)
                rows.append([head(found.name), name, _images(found, block), *cells])
    headers = ["data set", "split", "test images", *_columns(pairs, at)]
    return Table(headers, rows, note=verdicts_note(done))


def views_table(done: Sequence[DatasetInputs]) -> Table | None:
    """Return datasets x splits: what cropping to the mask and the mask alone do."""
    pairs: Pairs = {
        "crop − whole": ((PROBE, "crop"), select.BASELINE),
        "crop − masked": ((PROBE, "crop"), select.MASKED_PROBE),
        "mask alone − whole": ((PROBE, "binary"), select.BASELINE),
    }
    at = ends(done)
    rows = []
    for found in done:
        for block in judged_blocks(found):
            compared = _compared(found, block, pairs)
            if any(compared):
                name = select.short_name(*block, drawn=found.drawn_split)
                rows.append([head(found.name), name, *_cells(compared, at)])
    if not rows:
        return None
    columns = _columns(pairs, at)
    filled = [i for i in range(len(columns)) if any(row[2 + i] != NOTHING for row in rows)]
    rows = [[*row[:2], *(row[2 + i] for i in filled)] for row in rows]
    headers = ["data set", "split", *(columns[i] for i in filled)]
    note = (
        "Linear probe. Crop: the image cropped to the mask; mask alone: its shape, without what is "
        "inside it. "
    )
    return Table(headers, rows, note=note + verdicts_note(done))


def information_table(done: Sequence[DatasetInputs]) -> Table | None:
    """Return datasets x splits: true regions, found and random ones, on images with truth."""
    pairs: Pairs = {
        "true − whole": (ORACLE, select.BASELINE),
        "found − random": (select.MASKED_PROBE, RANDOM),
        "true − found": (ORACLE, select.MASKED_PROBE),
    }
    at = ends(done)
    rows = []
    for found in done:
        for split in (select.PUBLISHED, select.GROUPED):
            block = select.WITH_TRUTH[split]
            compared = _compared(found, block, pairs)
            if any(compared):
                name = select.short_name(*split, drawn=found.drawn_split)
                cells = _cells(compared, at)
                size = _images(found, block)
                classes = classes_in_words(found, *block)
                rows.append([head(found.name), name, size, classes, *cells])
    if not rows:
        return None
    headers = ["data set", "split", "test images", "classes", *_columns(pairs, at)]
    note = (
        "Linear probe on test images that have a ground-truth mask. True: the ground-truth region "
        "(the ceiling); found: the stored mask; random: the stored mask's shape elsewhere in the "
        "image (the floor). Classes: those that have such a test image. " + verdicts_note(done)
    )
    return Table(headers, rows, note=note)


def _columns(pairs: Pairs, at: Sequence[float]) -> list[str]:
    return [f"{name}, {share(f)}" for name in pairs for f in at]


def _compared(found: DatasetInputs, block: Block, pairs: Pairs) -> list[dict[float, Difference]]:
    return [comparisons_of(found, a, b, *block) for a, b in pairs.values()]


def _cells(compared: Sequence[dict[float, Difference]], at: Sequence[float]) -> list[str]:
    """Return the differences under `_columns`, or dashes."""
    return [d[f].short if f in d else NOTHING for d in compared for f in at]


def _images(found: DatasetInputs, block: Block) -> Cell:
    images = select.over_seeds(found.metrics, *block)["n_images"].max()
    return numeric(f"{images:,.0f}", images)


def prompts_overview(done: Sequence[DatasetInputs]) -> Table | None:
    """Return prompt strategies x datasets: mean Dice with its interval."""
    having = [d for d in done if d.prompt_quality is not None and len(d.prompt_quality)]
    names: dict[str, str] = {}
    for found in having:
        names |= prompt_names(found.prompt_quality)
    if not names:
        return None
    names = dict(sorted(names.items(), key=lambda n: (n[1].startswith("reference"), n[0])))
    if ELLIPSE in names:  # the floor stands last
        names[ELLIPSE] = names.pop(ELLIPSE)
    rows = []
    for strategy, words in names.items():
        row: list = [head(words)]
        for found in having:
            quality = found.prompt_quality
            part = quality[quality["strategy"] == strategy]
            mean = found.mean_interval(part, "dice")
            row.append(interval_cell(*mean, as_percent=False, digits=2))
        rows.append(row)
    sizes = [f"{d.name} ({d.prompt_quality['image_id'].nunique():,} images)" for d in having]
    note = (
        f"Mean Dice [{done[0].level} interval], 1 is the true region. References are made from the "
        "ground truth, to judge SAM2 alone: no mask that is classified was made with them."
    )
    return Table(["prompt", *sizes], rows, note=note)


def comparison_table(found: DatasetInputs) -> Table | None:
    """Return every comparison of the answers: splits x pairs of runs, all shares of labels."""
    blocks = select.distinct_blocks(found.metrics)
    rows, measured = [], set()
    for block in blocks:
        for words, a, b in _pairs(found, block):
            d = comparisons_of(found, a, b, *block)
            if d:
                rows.append((select.short_name(*block, drawn=found.drawn_split), words, d))
                measured |= set(d)
    if not rows:
        return None
    columns = sorted(measured)
    body = [
        [head(where), words, *(d[f].short if f in d else NOTHING for f in columns)]
        for where, words, d in rows
    ]
    return Table(["split", "difference", *map(share, columns)], body, note=verdicts_note([found]))


def _pairs(found: DatasetInputs, block: tuple[str, str]) -> list[tuple[str, Run, Run]]:
    runs = select.runs_of(select.over_seeds(found.metrics, *block))
    heads = [h for h in dict.fromkeys(h for h, _ in runs) if h != "zero-shot"]
    named = select.HEADS
    pairs = [
        (f"{named.get(h, h)}: {select.VIEWS[v]} − whole", (h, v), (h, "whole"))
        for h in heads
        for v in ("masked", *OTHERS)
    ]
    pairs.append(("method − linear probe on whole", select.METHOD, select.BASELINE))
    if ORACLE in runs:
        pairs += [
            ("linear probe: true region − whole", ORACLE, select.BASELINE),
            ("linear probe: found region − random", select.MASKED_PROBE, RANDOM),
            ("linear probe: true region − found", ORACLE, select.MASKED_PROBE),
        ]
    return pairs


def time_table(found: Sequence[DatasetInputs]) -> Table | None:
    """Return datasets x stages: seconds of the last run that computed, from the run records."""
    stages = [s for s in STAGES if any(s in d.records for d in found)]
    if not stages:
        return None
    rows, partial = [], False
    for one in found:
        seconds = {}
        row: list = [head(one.name)]
        for stage in stages:
            run = one.records.get(stage, {}).get("last_computed")
            if not run:
                row.append(None)
                continue
            seconds[stage] = float(run["seconds"])
            there = run["skipped"] > 0
            partial |= there
            row.append(Cell(number(seconds[stage], 0) + ("*" if there else ""), look="number"))
        total = sum(seconds.values())
        rows.append([*row, numeric(number(total / 60, 1), total)])
    names = [f"{stage.replace('_', ' ')}, s" for stage in stages]
    note = "Wall time of each stage's last run that computed anything, as its record has it."
    if partial:
        note += " * Part of the work was there already from an earlier run."
    return Table(["data set", *names, "sum, min"], rows, note=note)


def ends(done: Sequence[DatasetInputs]) -> list[float]:
    """Return the smallest and the largest share of labels of each dataset, rising, each once."""
    return sorted({f for d in done for f in shares(d.metrics)})
