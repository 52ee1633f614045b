"""The summary in plain words: what was asked, what came out, how sure."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import Params
from pipeline.report import answers, results_text, select
from pipeline.report import results_phrases as phrases
from pipeline.report.class_mix import mix_note
from pipeline.report.inputs import DatasetInputs
from pipeline.report.largest_class import largest_class
from pipeline.report.page import Details, Heading, Points, Section, Text
from pipeline.report.paper import OTHER_SET
from pipeline.report.remarks import as_published
from pipeline.report.results_tables import ends
from pipeline.report.sections.in_short import STRICTEST, in_short
from pipeline.report.tables import (
    Cell,
    Table,
    head,
    interval_cell,
    listed,
    numeric,
    percent,
    share,
)

SHOWN = (select.PUBLISHED, ("official", "clean_any"), ("grouped", "full"))


def summary(datasets: Sequence[DatasetInputs], params: Params) -> Section:
    """Build the first section of the page: ten lines, then the figures they come from."""
    level = share(params.evaluate.confidence)
    made = Section("summary", "Summary", id="summary")
    blocks = made.blocks
    done = [d for d in datasets if d.metrics is not None]
    blocks.append(Points(in_short(done, params), lead=True))
    if not done:
        blocks.append(Text("Nothing yet: no dataset has been evaluated.", "warning"))
        return made
    blocks.append(Heading("At a glance"))
    blocks.append(at_a_glance(done))
    blocks += [Details(f"More on {d.name}", [Points([headline(d), *findings(d)])]) for d in done]
    blocks.append(Heading("How sure"))
    blocks.append(
        Text(
            f"Intervals are {level}, over seeds (Student's t, since they are few) and over test "
            "images, by patient, group and copies where these are known. Differences are paired: "
            "the same seeds and images on both sides; “beyond chance” means that the interval "
            "excludes zero and p, after Holm's correction for the number of comparisons, is below "
            "0.05. Grouped figures are the ones to trust; those on a set's own test part can be "
            "inflated by copies wherever the audit finds them."
        )
    )
    blocks.append(Points([f"{d.name}: {answers.certainty(d)}" for d in done]))
    blocks.append(
        Text(
            f"Models: {params.models.sam2.name} for the masks, {params.models.clip.name} for the "
            f"features (profile “{params.profile}”); masks prompted by “{params.segment.prompt}”.",
            "note",
        )
    )
    return made


def headline(found: DatasetInputs) -> str:
    """Say in one sentence what masking and the method did, on the strictest split there is."""
    probe, whole = (_verdict(found, run) for run in (select.MASKED_PROBE, select.METHOD))
    return (
        f"{found.name}: masking {probe} for the linear probe; against the linear probe on whole "
        f"images the method {whole}."
    )


def _verdict(found: DatasetInputs, run: answers.Run) -> str:
    every = (answers.comparisons_of(found, run, select.BASELINE, *block) for block in STRICTEST)
    return next((phrases.verdict(d) for d in every if d), "was not compared")


def findings(found: DatasetInputs) -> list[str]:
    """Say the findings on one dataset, each with its figures."""
    parts = [
        ("Baseline to beat: ", results_text.baseline(found)),
        ("Splits: ", answers.survival(found)),
        ("Copies: ", answers.leaking(found)),
        ("Masks: ", answers.dice(found)),
        *(("What the mask holds: ", text) for text in answers.mask_information(found)[:2]),
    ]
    return [f"{start}{text}" for start, text in parts if text]


def at_a_glance(done: Sequence[DatasetInputs]) -> Table:
    """Return datasets x headline figures: the fewest and the most labels, published and grouped."""
    at = ends(done)
    runs = {
        "probe, whole": select.BASELINE,
        "probe, masked": select.MASKED_PROBE,
        "method": select.METHOD,
    }
    rows = []
    for found in done:
        again = select.repeated(found.metrics)
        for block in SHOWN:
            table = select.over_seeds(found.metrics, *block)
            if not select.fractions_of(table) or again.get(block) == select.PUBLISHED:
                continue
            name = select.short_name(*again.get(block, block), drawn=found.drawn_split)
            floor = largest_class(found, *block)
            row: list = [head(found.name), name]
            row.append(numeric(percent(floor.share), floor.share) if floor else None)
            for run in runs.values():
                for fraction in at:
                    r = select.one(table, *run, fraction)
                    row.append(None if r is None else interval_cell(r["value"], r["lo"], r["hi"]))
            row.append(_quoted(found) if block == select.PUBLISHED else None)
            rows.append(row)
    headers = [
        "data set",
        "split",
        "largest class",
        *(f"{name}, {share(f)}" for name in runs for f in at),
    ]
    headers.append(Cell("quoted: MedFocusCLIP, 5 / 100 %", look="quoted"))
    note = f"Accuracy in percent [{done[0].level} interval]. Largest class: what always answering "
    note += "it would get right, its share of the test images. Method: MedFocus fusion on masked "
    note += "images, then a logistic regression on the frozen fusion, as the paper evaluates. "
    note += "Clean: without the test images that have a copy in train (“mirrored too”: or a "
    note += "mirrored or turned one); a set without such a row has no such images. Grouped: "
    note += "cross-validation in which no patient"
    unaware = [d.name for d in done if not d.audited]
    if unaware:
        note += " or group is on both sides; nor a copy, but copies were not looked for in "
        note += f"{listed(unaware)}."
    else:
        note += ", group or copy is on both sides."
    note += as_published(done)
    note += "".join(mix_note(d, runs) for d in done)
    if any(d.name in OTHER_SET and d.quoted for d in done):
        note += " * The paper's lung set is another one: its figures cannot be compared."
    return Table(headers, rows, note=note)


def _quoted(found: DatasetInputs) -> Cell | None:
    points = found.quoted.get("MedFocusCLIP")
    if not points:
        return None
    few, most = points[min(points)], points[max(points)]
    star = "*" if found.name in OTHER_SET else ""
    return Cell(f"{percent(few, 2)} / {percent(most, 2)}{star}", sort=most, look="number quoted")
