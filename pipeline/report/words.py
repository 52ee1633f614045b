"""How the report and results/README.md name things and write numbers.

Longer explanations are in the templates; sentences that depend on figures are made here, in
`tables.py` and in `build.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.config import labels_of, parts_of

if TYPE_CHECKING:
    from pipeline.report.data import Dataset

MISSING = "–"
"""Stands for a number that does not exist; never a zero."""
LEARNERS = {"zero-shot": "Zero-shot", "linear-probe": "Linear probe", "medfocus": "MedFocus",
            "medfocus-probe": "MedFocus probe", "nearest-prototype": "Nearest prototype",
            "k-nn": "k-NN", "tip-adapter": "Tip-Adapter", "tip-adapter-f": "Tip-Adapter-F",
            "clip-adapter": "CLIP-Adapter", "lp-plus-plus": "LP++",
            "ss-text": "SS-Text", "coop": "CoOp", "cocoop": "CoCoOp",
            "visual-prompt": "Visual prompt", "fine-tuned": "Fine-tuned",
            "out-of-core-probe": "Linear probe, out of core"}  # fmt: skip
VIEWS = {"whole": "whole image", "masked": "masked image", "crop": "crop to the mask",
         "binary": "mask alone", "oracle": "ground-truth mask", "random": "random region",
         "dim": "dimmed outside the mask", "blur": "blurred outside the mask",
         "grey": "grey outside the mask", "random-crop": "random crop",
         "trunk": "maps of the whole image", "inside": "maps inside the mask",
         "outside": "maps outside the mask", "random-inside": "maps inside a random region",
         }  # fmt: skip
PROTOCOLS = {
    "official": "Published split",
    "grouped": "Grouped cross-validation",
    "grouped-pooled": "Grouped, folds pooled",
    "ground_truth": "Published split, images with a ground-truth mask",
    "grouped_truth": "Grouped, images with a ground-truth mask",
}
SUBSETS = {"full": "", "clean": ", without copies", "clean_any": ", without (mirrored) copies"}
METRICS = {
    "accuracy": ("Accuracy, %", 100, 1),
    "balanced_accuracy": ("Balanced accuracy, %", 100, 1),
    "macro_f1": ("Macro F1, %", 100, 1),
    "macro_auroc": ("Macro AUROC", 1, 3),
    "ece": ("ECE", 1, 3),
    "brier": ("Brier score", 1, 3),
}
"""Name, factor and decimals of each metric."""
OUTCOMES = {"ok": "used", "empty": "empty: whole image used",
            "full": "full frame: whole image used", "failed": "failed"}  # fmt: skip
FLOORS = {"random": "floor: the same shape elsewhere",
          "ellipse": "floor: a central ellipse of the same area"}  # fmt: skip
KINDS = {
    "byte": "identical files",
    "near": "near copies (saved again, resized, brightened, shifted)",
    "mirror": "mirror images",
    "turn": "rotated copies",
}
STATUS = {"error": "stopped with an error", "interrupted": "was interrupted",
          "running": "was killed or is still running"}  # fmt: skip


def view(name: str) -> str:
    """Name a view in a sentence, or all views of a joint one."""
    named = [part.partition("@") for part in parts_of(name)]
    said = " and ".join(VIEWS.get(v, v) + (f" ({of})" if of else "") for v, _, of in named)
    return said + (f", with the labels of {labels_of(name)}" if labels_of(name) else "")


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Format a number with a true minus sign; `MISSING` for None and NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share between 0 and 1 in percent, without the percent sign."""
    return number(None if value is None else 100 * value, digits)


def interval(
    value: float, lo: float, hi: float, scale: float = 100, digits: int = 1, sign: bool = False
) -> str:
    """Format a value and, after a line break, its interval, if it has one."""
    shown = [number(scale * v, digits, sign) for v in (value, lo, hi)]
    return f"{shown[0]}\n[{shown[1]}, {shown[2]}]" if MISSING not in shown else shown[0]


def inline(text: str) -> str:
    """Return a cell's text in one line."""
    return text.replace("\n", " ")


def share(fraction: float) -> str:
    """Format a share of the labels: "5 %"."""
    return f"{100 * fraction:.3g}\N{NO-BREAK SPACE}%"


def labels(fraction: float) -> str:
    """Name a share of the labels in a sentence."""
    return "all labels" if fraction >= 1 else f"{share(fraction)} of labels"


def count(n: float) -> str:
    """Format a number of parameters: "12,345", "1.2 million"."""
    if not n >= 0:
        return MISSING
    return f"{n:,.0f}" if n < 1e6 else f"{n / 1e6:.1f} million"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun: "1 image", "2 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def join(items: Iterable[str]) -> str:
    """Join words: "a, b and c"."""
    words = list(items)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def slug(*parts: str) -> str:
    """Make an HTML id; different names that differ only in punctuation get different ids."""
    text = "-".join(parts)
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", text).strip("-").lower()
    return plain if plain == text else f"{plain}-{sum(i * ord(c) for i, c in enumerate(text, 1))}"


def block(data: Dataset, key: tuple[str, str]) -> str:
    """Name a protocol and subset of a dataset."""
    name = PROTOCOLS.get(key[0], key[0])
    if data.drawn_split:
        name = name.replace("Published split", "Split drawn here")
    return name + SUBSETS.get(key[1], f", {key[1]}")


def about_block(data: Dataset, key: tuple[str, str]) -> str:
    """Say what a protocol keeps apart, how many test images it has, and which classes lack one."""
    said = []
    if key[0].startswith("grouped"):
        kept = "patient, group or known copy" if data.audited else "patient or group"
        said = [f"No {kept} is both in training and in test."]
        said += [] if data.audited else ["Copies were not searched for."]
    elif data.drawn_split:
        said = ["The data set has no test part; this one was drawn in whole patients and groups."]
    else:
        said = ["The data set's own test part."]
        if key[1] != "full":
            said += ["Test images with a copy in training are left out."]
        elif data.test_copies:
            test, _, copies = data.test_copies
            said += [f"{copies:,} of {plural(test, 'test image')} have a copy in training."]
    row = data.tested.get(key)
    if row is not None:
        said.append(f"{plural(row.n_images, 'test image')}.")
        said += [f"No test image of {row.missing_classes}."] if row.missing_classes else []
    return " ".join(said)


def note(data: Dataset, text: str) -> str:
    """Write a note of the plan of the splits with the name of its protocol."""
    name, colon, rest = text.partition(": ")
    known = colon and name in PROTOCOLS
    return f"{block(data, (name, 'full'))}: {rest}." if known else f"{text}."


def verdict(d: Any) -> str:
    """Return the verdict of a difference, with † where only the interval excludes zero."""
    mark = "†" if d.verdict == "no difference" and (d.lo > 0 or d.hi < 0) else ""
    return {"too few": "too few images"}.get(d.verdict, d.verdict) + mark


def mark(verdict: str) -> str:
    """Return the sign of a difference beyond chance after Holm's correction; "" for none."""
    return {"better": " ▲", "worse": " ▼"}.get(verdict, "")


def span(values: Iterable[float], digits: int = 1, sign: bool = False) -> str:
    """Write the range of some shares in percent: "66.5 to 79.2", or one number."""
    found = list(values)
    ends = [number(100 * v, digits, sign) for v in (min(found), max(found))]
    return " to ".join(dict.fromkeys(ends))


def advice(system: str, chosen: list[tuple[Any, Any]]) -> str:
    """Say what a system reaches at some steps (step, row of compare.parquet) in a row: its
    accuracy, its difference to the baseline, and at how many it is beyond chance."""
    heads = " to ".join(dict.fromkeys((chosen[0][0].head, chosen[-1][0].head)))
    heads = heads.replace(" shots to", " to").replace(" shot to", " to")
    labels_used = " to ".join(
        dict.fromkeys(f"{of.n_labels:,}" for of, _ in (chosen[0], chosen[-1]))
    )
    text = f"{heads} ({labels_used} labels): {system}, {span(r.accuracy for _, r in chosen)} %"
    rows = [row for _, row in chosen if row.baseline_name]
    if not rows:
        return f"{text}, the baseline itself."
    better, worse = (sum(r.baseline_verdict == v for r in rows) for v in ("better", "worse"))
    text += f", {span((r.baseline_difference for r in rows), sign=True)} points to the baseline, "
    said = [
        f"{verb} beyond chance at {n}" for verb, n in (("better", better), ("worse", worse)) if n
    ]
    return text + (f"{join(said)} of {len(rows)}." if said else "never beyond chance.")


def target(rows: list[Any], baseline: str) -> list[str]:
    """Answer whether the mask earns its place: the best system that uses the mask, picked on
    validation for each dataset, against the baseline on whole images (`over_sets`)."""
    wins = [row.dataset for row in rows if row.difference > 0]
    sure = [row.dataset for row in rows if row.verdict == "better"]
    fails = [row for row in rows if not row.difference > 0]
    reached = len(wins) >= 0.75 * len(rows) and bool(sure)
    said = [
        f"The mask {'earns' if reached else 'does not earn'} its place: in grouped "
        "cross-validation and the mean over shares, the system with the mask that did best on "
        f"validation beats “{baseline}” on "
        f"{len(wins)} of {plural(len(rows), 'data set')}{_named(wins)}, beyond chance after "
        f"Holm's correction on {len(sure)}{_named(sure)}."
    ]
    if fails:
        listed = join(f"{r.dataset} ({number(100 * r.difference, 1, True)} points)" for r in fails)
        said.append(f"It fails on {listed}.")
    if any(math.isfinite(row.control_difference) for row in rows):
        own = [row.dataset for row in rows if row.control_verdict == "better"]
        said.append(
            "The same system with a random region or crop in the mask's place is worse beyond "
            f"chance on {len(own)}{_named(own)}; elsewhere the gain may be that of more features."
        )
    for row in rows:
        text = (
            f"{row.dataset}: {row.name}, {percent(row.accuracy)} % against "
            f"{percent(row.baseline_accuracy)} %, "
            f"{inline(interval(row.difference, row.lo, row.hi, sign=True))} points, "
            f"p = {row.p_holm:.2g} after Holm's correction"
        )
        if math.isfinite(row.control_difference):
            part = number(100 * row.control_difference, 1, sign=True)
            text += f"; the mask's part of it, over the same system with random regions, is {part}"
        said.append(text + ".")
    return said


def _named(names: list[str]) -> str:
    return f" ({join(names)})" if names else ""
