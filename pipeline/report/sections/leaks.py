"""The leak audit: copies across the split, with pictures of the pairs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.config import Params
from pipeline.report import facts
from pipeline.report.gallery import Album, Gallery
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Details, Section, Text
from pipeline.report.tables import Cell, Table, head, many, number, numeric, percent

PAIRS = 4
KINDS = {
    "byte": "the same bytes",
    "near": "near-copies (re-saved, resized, brighter, shifted)",
    "mirror": "mirror images",
    "turn": "turned copies",
}


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Count what the audit found and show pairs of every kind."""
    if found.audit is None and found.audit_images is None and found.audit_pairs is None:
        return None
    made = Section("leaks", "Copies and leaks")
    across = facts.copies(found)
    if across is not None:
        made.blocks.append(_test_table(found, across))
    pairs = found.audit_pairs
    if pairs is not None and len(pairs):
        made.blocks.append(_kinds(pairs))
        conflicts = pairs[pairs["label_a"] != pairs["label_b"]]
        if len(conflicts):
            made.blocks.append(_gallery(conflicts, "Copies with different labels", album))
        for kind, words in KINDS.items():
            across = pairs[(pairs["kind"] == kind) & pairs["straddles"]]
            if len(across):
                made.blocks.append(_gallery(across, f"On both sides: {words}", album))
    elif pairs is not None:
        made.blocks.append(Text("The audit found no pair of copies."))
    if found.audit is not None:
        rows = [[head(k), v] for k, v in flat(found.audit)]
        made.blocks.append(
            Details(
                "All counts and the parameters of the audit",
                [Table(["what", "value"], rows)],
                printed=False,
            )
        )
    return made


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Flatten nested tables to (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in flat(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:12])) + (", …" if len(value) > 12 else "")
        return [(name, shown)]
    return [(name, str(value))]


def _test_table(found: DatasetInputs, across: facts.Copies) -> Table:
    def row(words: str, count: int) -> list:
        share = numeric(percent(count / across.test), count / across.test) if across.test else None
        return [head(words), _count(count), share]

    rows = [
        row("test images", across.test),
        row("with a copy in train", across.plain),
        row("with a copy in train, mirrored or turned included", across.every),
    ]
    images = found.audit_images
    conflicts = int(images["label_conflict"].sum()) if "label_conflict" in images else 0
    rows.append([head("images (any part) with a copy of another label"), _count(conflicts), None])
    return Table(["what", "images", "% of test"], rows, caption="The set's own split")


def _kinds(pairs: pd.DataFrame) -> Table:
    rows = []
    for kind in [*KINDS, *sorted(set(pairs["kind"]) - set(KINDS))]:
        mine = pairs[pairs["kind"] == kind]
        rows.append(
            [
                head(KINDS.get(kind, kind)),
                _count(len(mine)),
                _count(mine["straddles"].sum()),
                _count((mine["label_a"] != mine["label_b"]).sum()),
            ]
        )
    headers = ["kind", "pairs", "on both sides of the split", "with different labels"]
    return Table(headers, rows, caption="Pairs of copies")


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", sort=int(value), look="number")


def _gallery(pairs: pd.DataFrame, title: str, album: Album) -> Gallery:
    shown = pairs.sort_values(
        ["score", "image_id_a", "image_id_b"], ascending=[False, True, True]
    ).head(PAIRS)
    pictures = []
    for number_, (_, r) in enumerate(shown.iterrows(), 1):
        for side in "ab":
            image_id, split, label = r[f"image_id_{side}"], r[f"split_{side}"], r[f"label_{side}"]
            caption = f"pair {number_}: {split or 'no part'}, {label}"
            if side == "b":
                caption += f"; score {number(float(r['score']))}"
            pictures.append(album.picture(image_id, caption, outlines=False))
    heading = f"{title} ({many(len(pairs), 'pair')})"
    return Gallery(heading, pictures, rest=len(pairs) - len(shown), pairs=True)
