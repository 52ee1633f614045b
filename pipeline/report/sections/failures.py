"""What failed, by name and reason; nothing is left out in silence."""

from __future__ import annotations

from pipeline.config import Params
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Section, Text
from pipeline.report.tables import Cell, Table, head, listed, many

SHOWN, MASKS = 200, 8
STORES = {"segment": "masks", "encode": "features"}


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """List failed images from the stores and the records of the last runs."""
    rows, more = failures(found), [Text(text, "note") for text in left_out(found)]
    if not rows:
        ran = [s for s in ("add", "segment", "encode") if s in found.records]
        if not ran and found.masks is None and found.features is None:
            return None
        return Section("failures", "Failures", [Text("No image failed in any stage."), *more])
    body = [[Cell(stage, look="bad"), head(name), reason] for stage, name, reason in rows[:SHOWN]]
    note = ""
    if len(rows) > SHOWN:
        note = f"{len(rows) - SHOWN:,} more are not shown: {_where(found, rows[SHOWN:])}."
    table = Table(["stage", "image", "reason"], body, note=note)
    text = Text(f"{many(len(rows), 'failure')}.", "warning")
    return Section("failures", "Failures", [text, table, *more])


def left_out(found: DatasetInputs) -> list[str]:
    """Say what `data add` left out without calling it a failure: files, and ground-truth masks."""
    parameters = found.records.get("add", {}).get("parameters") or {}
    skipped, masks = (parameters.get(key) or {} for key in ("skipped", "masks_left_out"))
    said = []
    if skipped:
        reasons = "; ".join(f"{reason}: {n:,}" for reason, n in sorted(skipped.items()))
        said.append(f"Files that data add took for no images of the set: {reasons}.")
    if masks:
        named = "; ".join(f"{name}: {why}" for name, why in list(masks.items())[:MASKS])
        more = f"; and {len(masks) - MASKS:,} more" if len(masks) > MASKS else ""
        images = many(len(masks), "image")
        said.append(f"The ground-truth mask of {images} was left out: {named}{more}.")
    return said


def _where(found: DatasetInputs, rows: list[tuple[str, str, str]]) -> str:
    """Say which files name these failures: the stage's record, or the store if it knows more."""
    root, places = found.paths.root, {}
    for stage, name, _ in rows:
        recorded = name in (found.records.get(stage, {}).get("failed") or {})
        path = found.paths.record(found.name, stage)
        if not recorded:
            path = getattr(found.paths, STORES[stage])(found.name)
        key = "“failed” in" if recorded else "the rows with status “failed” of"
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        places[f"{key} {shown.as_posix()}"] = None
    return f"they are named in {listed(places)}"


def failures(found: DatasetInputs) -> list[tuple[str, str, str]]:
    """Return (stage, image_id, reason), sorted, each once; the store's word comes first."""
    seen: dict[tuple[str, str], str] = {}
    for stage, store in ((stage, getattr(found, part)) for stage, part in STORES.items()):
        if store is None:
            continue
        table = store.table()
        if "in_manifest" in table:
            table = table[table["in_manifest"]]
        for image_id, r in table[table["status"] == "failed"].iterrows():
            seen[(stage, str(image_id))] = str(r.get("reason") or "no reason recorded")
    for stage, record in found.records.items():
        for image_id, reason in (record.get("failed") or {}).items():
            seen.setdefault((stage, image_id), str(reason))
    return [(stage, name, reason) for (stage, name), reason in sorted(seen.items())]
