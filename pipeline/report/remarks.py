"""What must be read beside the figures: what the plan of the splits and `evaluate` noted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.models.seen import DIGITS, trained_on
from pipeline.report import select
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import listed, many, title

SHOWN = 8
STOPPED = {
    "error": "stopped with an error",
    "interrupted": "was interrupted",
    "running": "was killed, or is still at work",
}
OFFICIAL = "official: "


def unfinished(found: DatasetInputs) -> list[str]:
    """Say which of the last runs that make figures did not end, and why: the figures that are there
    are of earlier ones."""
    said = []
    for stage in ("train", "evaluate"):
        record = found.records.get(stage, {})
        if record.get("status") not in STOPPED:
            continue
        why = str(record.get("error") or "").replace(f"{Path(found.paths.root).resolve()}/", "")
        text = f"The last run of {stage} {STOPPED[record['status']]}{why and f': {why}'}"
        again = f"pipeline {stage} --dataset {found.name}"
        said.append(f"{text}. Figures that are shown are of an earlier one; run: {again}.")
    return said


def plan_remarks(found: DatasetInputs) -> list[str]:
    """Return the notes of the plan of the splits as sentences, each with its split in words."""
    return [f"{title(_named(note, found.drawn_split))}." for note in found.notes]


def _named(note: str, drawn: bool) -> str:
    """Put the words for a protocol in place of its name, at the start or after "protocol"."""
    known = {protocol for protocol, _ in select.BLOCKS}
    start, colon, text = note.partition(": ")
    if colon and start in known:
        text = re.sub(r"^without (?=')", "without the class ", text)
        return f"{select.short_name(start, 'full', drawn=drawn)}: {text}"
    word, _, rest = note.partition(" ")
    name, _, rest = rest.partition(" ")
    if word == "protocol" and name in known:
        return f"“{select.short_name(name, 'full', drawn=drawn)}” {rest}"
    return note


def as_published(done: Sequence[DatasetInputs]) -> str:
    """Say which images take no part in what is called "as published"; "" where all do."""
    said = []
    for found in done:
        notes = [n.removeprefix(OFFICIAL) for n in found.notes if n.startswith(OFFICIAL)]
        out = [n for n in notes if n.endswith(("take no part", "are left out"))]
        if out and not found.drawn_split:
            said.append(f"{found.name} ({'; '.join(out)})")
    return f" “As published” is without some images of {listed(said)}." if said else ""


def evaluate_notes(metrics: pd.DataFrame, protocol: str, subset: str) -> str:
    """Say what `evaluate` noted of a split, e.g. classes left out of a mean; "" if nothing."""
    if "note" not in metrics:
        return ""
    rows = metrics[(metrics["protocol"] == protocol) & (metrics["subset"] == subset)]
    notes = sorted({n for note in rows["note"].dropna() for n in str(note).split("; ") if n})
    return "Notes: " + "; ".join(notes[:SHOWN]) + "." if notes else ""


def tested_classes(found: DatasetInputs, protocol: str, subset: str) -> list[str]:
    """Return the classes that have a test image in a split; none where that is not known."""
    table = found.per_class
    if table is None or table.empty:
        return []
    mine = table[(table["protocol"] == protocol) & (table["subset"] == subset)]
    return sorted(set(mine.loc[mine["support"] > 0, "class"]))


def classes_in_words(found: DatasetInputs, protocol: str, subset: str) -> str | None:
    """Count the classes that are tested, and name them where some of the set's are not."""
    tested = tested_classes(found, protocol, subset)
    if not tested:
        return None
    missing = set(found.classes) - set(tested)
    return f"{len(tested)}: {', '.join(tested)}" if missing else f"{len(tested)}, all"


def fewer_classes(found: DatasetInputs) -> str | None:
    """Say where images with ground truth make a task of fewer classes; None where they do not."""
    said, before = [], None
    for block in (select.TRUTH, select.GROUPED_TRUTH):
        tested = tested_classes(found, *block)
        missing = sorted(set(found.classes) - set(tested))
        if tested and missing and tested != before:
            before = tested
            where = " in grouped cross-validation" if block == select.GROUPED_TRUTH else ""
            said.append(
                f"On images with a ground-truth mask this is{where} a task of {len(tested)} "
                f"classes, {listed(tested)}: no test image of {listed(missing)} has one."
            )
    return " ".join(said) or None


def seen_images(found: DatasetInputs) -> str | None:
    """Say how many of a set's images SAM2's weights were trained on; None where none is known."""
    if found.masks is None or found.manifest is None:
        return None
    model = found.masks.identity.get("model")  # none for masks that no model made
    model = model["fingerprint"] if isinstance(model, dict) else {}
    table = found.manifest
    seen = table["sha256"].str[:DIGITS].isin(trained_on(model.get("checkpoint_sha256", "")))
    if not seen.any():
        return None
    counts = table["split"][seen].value_counts()
    where = listed(f"{n:,} of {split or 'no split'}" for split, n in counts.items())
    text = (
        f"{model.get('name', 'SAM2')} was trained on the true regions, not on the diagnoses, of "
        f"{many(int(seen.sum()), 'image')} of this set ({where}): its masks here are no result on "
        "images of an unseen kind."
    )
    patients = set(table["patient_id"][seen]) - {""}
    test = table["split"] == "test"
    shared = int((test & ~seen & table["patient_id"].isin(patients)).sum())
    if shared:
        total = int(test.sum())
        text += f" {shared:,} of the {total:,} test images carry the patient id of one of them."
    return text
