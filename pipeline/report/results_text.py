"""The paragraphs of the result pages, generated from the tables: one a dataset and question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.report import answers, facts, results_views, select
from pipeline.report import results_phrases as phrases
from pipeline.report.answers import Run, comparisons_of, signed
from pipeline.report.class_mix import class_mix
from pipeline.report.fallbacks import uneven_fallbacks
from pipeline.report.inputs import DatasetInputs
from pipeline.report.paper import OTHER_SET
from pipeline.report.remarks import fewer_classes, seen_images
from pipeline.report.sections.dice_effect import effect
from pipeline.report.sections.mask_quality import mask_table
from pipeline.report.tables import interval, labels_words, listed, many, percent, title

ORACLE, RANDOM = ("linear-probe", "oracle"), ("linear-probe", "random")
CEILING = {
    "helps": "the true regions would help",
    "hurts": "even the true regions lose: what surrounds them carries information",
    "undecided": "even the true regions make no difference told from chance",
}
FLOOR = {
    "helps": "the found masks hold more than random regions of the same shape",
    "hurts": "random regions of the same shape do better than the found masks",
    "undecided": "the found masks cannot be told from random regions of the same shape",
}


def over_all(done: Sequence[DatasetInputs]) -> list[str]:
    """Answer the questions over all datasets, in a line each."""
    lines = [
        _count(done, "masking", "Masked against whole images, linear probe", select.MASKED_PROBE),
        _count(
            done,
            "the whole method",
            "The method on masked images against the linear probe on whole ones",
            select.METHOD,
        ),
        results_views.over_all(done),
        _by_verdict(
            done,
            "Even with the true regions instead of SAM2's (the ceiling), masking",
            ORACLE,
            select.BASELINE,
        ),
        _by_verdict(
            done,
            "Against random regions of the same shape (the floor), the found region",
            select.MASKED_PROBE,
            RANDOM,
        ),
        *map(_copies, done),
        _unbeaten(done),
    ]
    return [line for line in lines if line]


def _count(done: Sequence[DatasetInputs], what: str, compared: str, run: Run) -> str | None:
    """Count the verdicts of a run against the baseline over datasets, splits and shares."""
    kinds = phrases.verdicts(done, run)
    if not kinds:
        return None
    says = "helps in some cases" if "helps" in kinds else "does not help"
    if {"helps", "hurts"} <= set(kinds):
        says += " and hurts in others"
    return (
        f"**With these models {what} {says}.** {compared}, over {many(len(done), 'data set')}, "
        f"all splits and all shares of the labels: {phrases.counted(kinds)}."
    )


def _by_verdict(done: Sequence[DatasetInputs], words: str, a: Run, b: Run) -> str | None:
    """Name the datasets by what a does against b, on images with a ground-truth mask."""
    by: dict[str, list[str]] = {}
    splits: list[str] = []
    labels: set[float] = set()
    for found in done:
        every = phrases.differences(found, a, b, select.WITH_TRUTH)
        if every:
            where, d = next(iter(every.items()))  # of the strictest split
            splits.append(where)
            labels.add(max(d))
            by.setdefault(d[max(d)].verdict, []).append(found.name)
    parts = [f"{phrases.VERBS[kind]} on {listed(by[kind])}" for kind in phrases.VERBS if kind in by]
    used = listed(map(labels_words, sorted(labels)))
    return (
        f"{words} {listed(parts)} (linear probe, {used}, images with ground truth, "
        f"{listed(dict.fromkeys(splits))})."
        if parts
        else None
    )


def _copies(found: DatasetInputs) -> str | None:
    """Say what copies across the published split are worth to the baseline."""
    across = facts.copies(found)
    if across is None or not across.every or None in (across.before, across.after):
        return None
    before, after = (
        f"{interval(r['value'], r['lo'], r['hi'])} %" for r in (across.before, across.after)
    )
    return (
        f"{found.name}: {across.every:,} of {across.test:,} test images "
        f"({percent(across.every / across.test)} %) have a "
        f"copy in train, mirrored and turned ones included; without them the linear probe on whole "
        f"images reaches {after} instead of {before} "
        f"({labels_words(across.before['fraction'])}).{_mix(found)}"
    )


def _mix(found: DatasetInputs) -> str:
    mix = class_mix(found, select.BASELINE)
    return "" if mix is None else f" {mix.sentence}"


def _unbeaten(done: Sequence[DatasetInputs]) -> str | None:
    """Say whether any head on whole images beats the linear probe beyond chance."""
    wins = []
    for found in done:
        for block, where in phrases.where(found):
            for run in select.runs_of(phrases.plain(found, block)):
                d = comparisons_of(found, run, select.BASELINE, *block)
                if any(x.verdict == "helps" for x in d.values()):
                    wins.append(f"{select.run_name(*run)} on {found.name}, {where}")
    if wins:
        return f"The linear probe on whole images is beaten beyond chance by {listed(wins)}."
    return (
        "The baseline to beat is the linear probe on whole images: no other head without masks "
        "is better beyond chance on any set, as published or in grouped cross-validation, at any "
        "share of the labels."
    )


def masking(found: DatasetInputs) -> str | None:
    """Does masking help, where, by how much; the whole method; the other views of the masks."""
    probe = phrases.differences(found, select.MASKED_PROBE, select.BASELINE)
    method = phrases.differences(found, select.METHOD, select.BASELINE)
    said = []
    if probe:
        said.append(f"For the linear probe masking {phrases.each(probe)}.")
    if method:
        compared = "Against the linear probe on whole images the whole method"
        said.append(f"{compared} {phrases.each(method)}.")
    said.append(results_views.views(found))
    return " ".join(filter(None, said)) or None


def content(found: DatasetInputs) -> str | None:
    """Does the mask carry information: the true regions, random ones, and the masks' quality."""
    said = []
    for a, b, words, measured in (
        (ORACLE, select.BASELINE, CEILING, "ground-truth masks minus whole images"),
        (select.MASKED_PROBE, RANDOM, FLOOR, "found minus random regions"),
    ):
        every = phrases.differences(found, a, b, select.WITH_TRUTH)
        most = {where: d[max(d)] for where, d in every.items()}
        for verdict in words:
            mine = {where: d for where, d in most.items() if d.verdict == verdict}
            if mine:
                shown = "; ".join(map(str, mine.values()))
                labels = listed({labels_words(max(every[where])): None for where in mine})
                said.append(
                    f"{title(listed(mine))} {words[verdict]} ({measured}, {labels}: {shown})."
                )
    said.append(fewer_classes(found))
    quality, better = facts.dice(found), effect(found)
    if quality:
        said += [f"Mean Dice of the found masks: {quality}, {quality.judged}.", seen_images(found)]
    said.append(uneven_fallbacks(found, mask_table(found)))
    if better:
        said.append(f"Does a better mask give a better classification? {better}")
    return " ".join(filter(None, said)) or None


def survival(found: DatasetInputs) -> str | None:
    """How much of the figures survives clean and grouped splits, and of the paper's gain."""
    said = [answers.leaking(found)]
    for run in (select.BASELINE, select.METHOD):
        text = answers.survival(found, run)
        said.append(text and text[:1].upper() + text[1:])
    said.append(paper_gain(found))
    return " ".join(filter(None, said)) or None


def paper_gain(found: DatasetInputs) -> str | None:
    """Set the gain that the paper reports beside the one measured here."""
    theirs, base = found.quoted.get("MedFocusCLIP"), found.quoted.get("CLIP")
    if not theirs or not base:
        return None
    few, most = min(theirs), max(theirs)
    gains = {f: theirs[f] - base[f] for f in dict.fromkeys((few, most))}
    shown = listed(f"{signed(g)} points with {labels_words(f)}" for f, g in gains.items())
    text = f"The paper reports (quoted, single runs) {100 * theirs[most]:.2f} % "
    text += f"with {labels_words(most)} "
    text += f"and a gain of MedFocusCLIP over CLIP of {shown}."
    if found.name in OTHER_SET:
        return f"{text} {OTHER_SET[found.name]}"
    for block, where in phrases.where(found):
        d = comparisons_of(found, select.METHOD, select.BASELINE, *block)
        mine = {f: d[f] for f in gains if f in d}
        if not mine:
            continue
        outside = [f for f in mine if gains[f] > mine[f].hi]
        survives = "the intervals do not exclude that gain"
        if len(outside) == len(mine):
            survives = "the intervals exclude that gain"
        elif outside:
            survives = f"the interval excludes that gain with {listed(map(labels_words, outside))}"
        return f"{text} With the models here, {where}, {survives}: {phrases.ends(mine)}."
    return text


def baseline(found: DatasetInputs) -> str | None:
    """Which run without masks is the one to beat."""
    for block, where in phrases.where(found):
        plain = phrases.plain(found, block)
        ends = phrases.shares(plain)
        rows = {f: select.one(plain, *select.BASELINE, f) for f in ends}
        figures = [
            f"{interval(r['value'], r['lo'], r['hi'])} % with {labels_words(f)}"
            for f, r in rows.items()
            if r is not None and np.isfinite(r["value"])
        ]
        if not figures:
            continue
        text = f"The linear probe on whole images, {where}: {listed(figures)}."
        best = plain.groupby(["head", "view"], observed=True)["value"].mean().idxmax()
        if best == select.BASELINE:
            return f"{text} No other head on whole images has a higher mean over the shares."
        d = comparisons_of(found, best, select.BASELINE, *block)
        name = select.run_name(*best)
        text += f" {name[:1].upper()}{name[1:]}, has the highest mean over the shares"
        if not d:
            return f"{text}."
        return f"{text}; against the linear probe it {phrases.verdict(d)}: {phrases.ends(d)}."
    return None
