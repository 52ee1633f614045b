"""The answers in plain words, generated from the tables: nothing here is written by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.evaluate.compare import verdict
from pipeline.report import facts, select
from pipeline.report.class_mix import class_mix
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import NOTHING, interval, labels_words, listed, percent, share

NO_DIFFERENCE = "makes no difference that can be told from chance"
NOT_CORRECTED = "makes no difference that withstands the correction for many comparisons"
# Verdicts as a table has them.
SHORT = {"helps": "better", "hurts": "worse", "undecided": "not told apart"}
KINDS = {"better": "helps", "worse": "hurts", "no difference": "undecided", "too few": "undecided"}


def signed(value: float) -> str:
    """Show a share in percentage points with its sign: "−3.1", "+0.4"."""
    return f"{100 * value:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Difference:
    """A paired difference of two runs with its interval and p value after Holm's correction."""

    value: float
    lo: float
    hi: float
    p_holm: float

    @property
    def verdict(self) -> str:
        """ "helps", "hurts" or "undecided"; the interval and the corrected p must agree."""
        return KINDS[verdict(self.lo, self.hi, self.p_holm)]

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero, before any correction."""
        return self.lo > 0 or self.hi < 0

    @property
    def bounded(self) -> bool:
        """Whether there is an interval: none where no resample tells of the difference."""
        return bool(np.isfinite([self.lo, self.hi]).all())

    @property
    def short(self) -> str:
        """In percentage points with the verdict, for a table: "−3.1 [−4.0, −2.2] worse"."""
        if np.isnan(self.value):
            return NOTHING
        alone = "†" if self.verdict == "undecided" and self.excludes_zero else ""
        return f"{self._shown()} {SHORT[self.verdict]}{alone}"

    def __str__(self) -> str:
        """In percentage points: "−3.1 points [−4.0, −2.2]"."""
        return "not measured" if np.isnan(self.value) else self._shown(" points")

    def _shown(self, unit: str = "") -> str:
        value, lo, hi = (signed(v) for v in (self.value, self.lo, self.hi))
        return f"{value}{unit} [{lo}, {hi}]" if self.bounded else f"{value}{unit}"


Run = tuple[str, str]
COMPARED = ("protocol", "subset", "metric", "fraction", "head_a", "view_a", "head_b", "view_b")


def difference(
    table: pd.DataFrame | None,
    a: Run,
    b: Run,
    fraction: float,
    *,
    protocol: str = "official",
    subset: str = "full",
    metric: str = "accuracy",
) -> Difference | None:
    """Return a - b from `plots/comparisons.csv`, whichever way round it is stored there."""
    if table is None:
        return None
    rows = select.rows_by(table, COMPARED)
    where = (protocol, subset, metric, round(fraction, 4))
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        r = rows.get((*where, *first, *second))
        if r is not None:
            lo, hi = sorted((sign * float(r["lo"]), sign * float(r["hi"])))
            return Difference(sign * float(r["difference"]), lo, hi, float(r["p_holm"]))
    return None


def comparisons_of(
    found: DatasetInputs, a: Run, b: Run, protocol: str = "official", subset: str = "full"
) -> dict[float, Difference]:
    """Return {fraction: a - b} for every fraction that was compared."""
    table = found.comparisons
    if table is None or table.empty:
        return {}
    pairs = {
        f: difference(table, a, b, f, protocol=protocol, subset=subset)
        for f in select.fractions_of(table)
    }
    return {f: d for f, d in pairs.items() if d is not None}


def compare_sentence(name: str, differences: dict[float, Difference]) -> str:
    """Say how large the difference is with the fewest and most labels, and where it is sure."""
    few, all_ = min(differences), max(differences)
    text = f"{name}: {differences[few]} with {share(few)} of the labels"
    if all_ != few:
        text += f", {differences[all_]} with {share(all_)}"
    by = {"helps": [], "hurts": [], "undecided": []}
    for fraction, d in differences.items():
        by[d.verdict].append(share(fraction))
    parts = []
    words = {
        "helps": "better beyond chance at",
        "hurts": "worse beyond chance at",
        "undecided": "not told apart at",
    }
    for kind, shares in by.items():
        if shares:
            parts.append(f"{words[kind]} {listed(shares)}")
    return f"{text} ({'; '.join(parts)})."


def mask_information(found: DatasetInputs) -> list[str]:
    """Do ground-truth masks help, and do random regions do as well as the stored masks?"""
    out = []
    pairs = {
        "ground-truth masks minus whole image": ("oracle", "whole"),
        "stored masks minus random regions of the same shape": ("masked", "random"),
        "ground-truth masks minus stored masks": ("oracle", "masked"),
    }
    for words, (a, b) in pairs.items():
        for block, where in (
            (select.GROUPED_TRUTH, ", in grouped cross-validation"),
            (select.TRUTH, ""),
        ):
            d = comparisons_of(found, ("linear-probe", a), ("linear-probe", b), *block)
            if d:
                out.append(compare_sentence(f"linear probe, {words}{where}", d))
                break  # the strictest split there is
    return out


SPLITS = {
    select.PUBLISHED: "on the set's own test part",
    ("official", "clean"): "without copies of training images",
    ("official", "clean_any"): "without copies of training images, mirrored and turned ones too",
    ("grouped", "full"): "in grouped cross-validation",
}


def survival(found: DatasetInputs, run: Run = select.BASELINE) -> str | None:
    """How much of a figure on the published split survives clean and grouped splits."""
    if found.metrics is None:
        return None
    parts: dict[str, list[str]] = {}
    left_out = set(select.repeated(found.metrics))
    if ("official", "clean_any") not in left_out:
        left_out.add(("official", "clean"))  # the stricter of the two says it
    for block, words in SPLITS.items():
        row = select.with_most_labels(found.metrics, run, block)
        if row is None or block in left_out:
            continue
        if found.drawn_split and block == select.PUBLISHED:
            words = "on a test part drawn here"
        said = f"{interval(row['value'], row['lo'], row['hi'])} % {words}"
        parts.setdefault(labels_words(row["fraction"]), []).append(said)
    if not parts:
        return None
    mix = class_mix(found, run)
    said = "; ".join(f"{labels}: {listed(figures)}" for labels, figures in parts.items())
    said = f"{select.run_name(*run)}, {said}."
    return said if mix is None else f"{said} {mix.sentence}"


def leaking(found: DatasetInputs) -> str | None:
    """How many test images have a copy in train."""
    across = facts.copies(found)
    if across is None:
        return None
    if not across.test:
        return "The set has no test part of its own."
    if not across.every:
        return f"None of {across.test:,} test images has a copy in train."
    plain = f"{across.plain:,} ({percent(across.plain / across.test)} %) of {across.test:,} test "
    plain += "images have a copy in train"
    if across.every == across.plain:
        return f"{plain}."
    every = f"{across.every:,} ({percent(across.every / across.test)} %)"
    return f"{plain}, {every} when mirrored and turned ones count."


def dice(found: DatasetInputs) -> str | None:
    """How good the masks are, on the part of the set that the heads are tested on."""
    stored = facts.dice(found)
    if stored is None:
        return None
    strategy = select.stored_strategy(found.mask_quality)
    words = [f"{stored} (stored masks, prompt “{strategy}”)"]
    for floor, what in sorted(select.FLOORS.items()):
        known = facts.dice(found, floor)
        words += [] if known is None else [f"{known} ({what})"]
    return f"mean Dice {listed(words)}; {stored.judged}."


def certainty(found: DatasetInputs) -> str | None:
    """How many seeds, runs, failures and test images stand behind the figures."""
    if found.metrics is None:
        return None
    m = found.metrics
    seeds = m[(m["seed"] >= 0) & (m["fraction"] > 0)]["seed"].nunique()
    images = m[(m["protocol"] == "official") & (m["subset"] == "full")]["n_images"].dropna()
    text = f"{seeds} seeds"
    if len(images):
        text += f", {round(images.max()):,} test images"
    if found.runs is not None:
        bad = int((found.runs["status"] != "ok").sum())
        text += f", {len(found.runs):,} runs of which {bad or 'none'} failed or diverged"
    return text + "."
