"""The study in about ten lines for a reader who knows medicine and no machine learning."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.config import Params
from pipeline.report import answers, facts, select
from pipeline.report.class_mix import class_mix
from pipeline.report.inputs import DatasetInputs
from pipeline.report.largest_class import largest_class
from pipeline.report.remarks import seen_images
from pipeline.report.tables import (
    interval,
    labels_words,
    listed,
    many,
    number,
    percent,
    share,
    title,
)

UNAWARE = "images that share no patient or known group with those it learned from (copies were not "
UNAWARE += "looked for)"
# The strictest split there is counts; what it means in words.
STRICTEST = {
    select.GROUPED: "images that share no patient, known group or copy with those it learned from",
    ("official", "clean_any"): "test images without a copy in training",
    select.PUBLISHED: "the set's own test part, copies of training images included",
}
VERDICTS = {
    "helps": "masking gains {} points [{}, {}]",
    "hurts": "masking costs {} points [{}, {}]",
    "undecided": f"masking {answers.NO_DIFFERENCE}",
}
AGAINST_WHOLE = {
    "helps": "more than of whole images",
    "hurts": "fewer than of whole images",
    "undecided": "not told apart from whole images",
}


def in_short(done: Sequence[DatasetInputs], params: Params) -> list[Markup]:
    """Return the lines: the question, how it was tested, one line a dataset, what to beware of."""
    lines = [
        (
            "Asked",
            "Does a computer sort medical images into diagnoses better when everything outside "
            "the region that matters is blacked out first (“masked”), and does the method of the "
            "MedFocusCLIP paper do better still, when few images carry a diagnosis to learn from?",
        ),
        (
            "Done",
            "One program (SAM2) finds the region, another (CLIP) turns the image into numbers, "
            f"and a simple classifier learns from {_shares(params)} of the labelled training "
            f"images. Each figure is the mean of {many(len(params.train.seeds), 'repetition')}, "
            f"each with other images drawn for training{_tested(done)}.",
        ),
    ]
    lines += [(found.name, text) for found in done if (text := result(found))]
    lines += [line for line in (_copies(done), _masks(done)) if line]
    lines.append(
        (
            "How sure",
            f"[a, b] holds the true value {100 * params.evaluate.confidence:g} times in 100, "
            "counting which images were drawn for training and which for testing. A difference is "
            "called one only if chance hardly explains it, even after so many comparisons.",
        )
    )
    lines.append(
        (
            "Beware",
            f"{_source(done)} The models tested are {params.models.sam2.name} and "
            f"{params.models.clip.name}; others may do otherwise. Nothing here is fit for "
            "diagnosis.",
        )
    )
    return [Markup("<b>{}.</b> {}").format(term, text) for term, text in lines]


def result(found: DatasetInputs) -> str | None:
    """Say in one line what whole images, masked ones and the method reached, and the difference."""
    for (protocol, subset), where in STRICTEST.items():
        table = select.over_seeds(found.metrics, protocol, subset)
        fractions = select.fractions_of(table)
        if not fractions:
            continue
        few, most = fractions[0], fractions[-1]
        runs = (select.BASELINE, select.MASKED_PROBE, select.METHOD)
        whole, masked, method = (select.one(table, *run, most) for run in runs)
        if whole is None or masked is None:
            continue
        text = f"{many(len(found.classes), 'diagnosis', 'diagnoses')}. "
        text += "" if (protocol, subset) == select.GROUPED else f"Tested on {where}. "
        text += f"Learning from {labels_words(most)} it sorts right {_percent(whole)} of whole "
        text += f"images, {_percent(masked)} of masked ones"
        if method is not None:
            text += f", and by the paper's method {_percent(method)}"
            d = answers.comparisons_of(found, select.METHOD, select.BASELINE, protocol, subset)
            text += f", {AGAINST_WHOLE[d[most].verdict]}" if most in d else ""
        text += f". {floor}" if (floor := largest_class(found, protocol, subset)) else "."
        d = answers.comparisons_of(found, select.MASKED_PROBE, select.BASELINE, protocol, subset)
        return f"{text} {_effect({f: d[f] for f in (most, few) if f in d})}".rstrip()
    return None


def _source(done: Sequence[DatasetInputs]) -> str:
    """Say what kind of images these are, so far as it is known."""
    by: dict[str, list[str]] = {}
    for found in done:
        kind = "public collections, not a clinic's" if found.quoted else ""
        kind = "drawn phantoms, no patients" if found.synthetic else kind
        by.setdefault(kind or f"those of data_manifests/{found.name}.csv", []).append(found.name)
    if len(by) == 1:
        return f"The images are {next(iter(by))}."
    return " ".join(f"The images of {listed(names)} are {kind}." for kind, names in by.items())


def _tested(done: Sequence[DatasetInputs]) -> str:
    grouped = any("grouped" in set(found.metrics["protocol"]) for found in done)
    where = STRICTEST[select.GROUPED] if all(found.audited for found in done) else UNAWARE
    return f", and tested on {where}" if grouped else ""


def _effect(differences: dict[float, answers.Difference]) -> str:
    """Say what masking did at each share of labels; one sentence where the answer is the same."""
    if not differences:
        return ""
    said = {f: _difference(d) for f, d in differences.items()}
    if len(set(said.values())) == 1:
        return f"{title(said.popitem()[1])}, with {listed(map(labels_words, differences))} alike."
    return title("; ".join(f"with {labels_words(f)} {text}" for f, text in said.items())) + "."


def _percent(row: dict) -> str:
    value, bounds = interval(row["value"], row["lo"], row["hi"]).partition(" ")[::2]
    return f"{value} % {bounds}".rstrip()


def _shares(params: Params) -> str:
    shares = sorted({params.splits.fractions[0], params.splits.fractions[-1]})
    return " to ".join(share(f) for f in shares)


def _difference(d: answers.Difference) -> str:
    if d.verdict == "undecided" and d.excludes_zero:
        return f"masking {answers.NOT_CORRECTED} ({d})"
    sign = -1 if d.verdict == "hurts" else 1
    values = (sign * 100 * v for v in (d.value, *sorted((d.lo, d.hi), key=lambda v: sign * v)))
    return VERDICTS[d.verdict].format(*(number(v, 1) for v in values))


def _copies(done: Sequence[DatasetInputs]) -> tuple[str, str] | None:
    """Say how many test images were seen in training, and what the best-known figure loses."""
    parts = []
    for found in done:
        across = facts.copies(found)
        if across is None or not across.every:
            continue
        part = f"{found.name} {across.every:,} of {across.test:,}"
        if across.before and across.after:
            part += f" ({percent(across.after['value'])} % right without them, "
            part += f"{percent(across.before['value'])} % with{_mix(found)})"
        parts.append(part)
    if not parts:
        return None
    return (
        "Copies",
        "Some test images were in the training part already, mirrored or turned ones included, "
        f"which can flatter figures on the published split: {listed(parts)}.",
    )


def _mix(found: DatasetInputs) -> str:
    """Say what the classes of the images without a copy explain of the loss."""
    mix = class_mix(found, select.BASELINE)
    if mix is None:
        return ""
    none = f", of which none is {listed(mix.lacking)}" if mix.lacking else ""
    return (
        f"; in the shares of the classes of those without{none}, {percent(mix.matched)} % of all"
        f"{mix.left}"
    )


def _masks(done: Sequence[DatasetInputs]) -> tuple[str, str] | None:
    """Say how well the regions agree with the ground truth, as a mean Dice by dataset."""
    parts = []
    for found in done:
        dice = facts.dice(found)
        if dice is not None:
            known = " (SAM2 was trained on some of its images)" if seen_images(found) else ""
            parts.append(f"{found.name} {number(dice.mean, 2)}{known}")
    if not parts:
        return None
    return (
        "Regions",
        "Overlap with the reference outlines (Dice: 1 is the same region, 0 none of it): "
        f"{listed(parts)}. A wrong region hides what matters.",
    )
