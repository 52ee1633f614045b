"""Sections on what stands behind the figures: copies, failures, run records, parameters."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.config import Params
from pipeline.report import words
from pipeline.report.blocks import (
    MISSING,
    Cell,
    Code,
    Fold,
    Gallery,
    Points,
    Section,
    Table,
    Text,
    head,
    is_known,
    join,
    more_text,
    number,
    percent,
    plural,
)
from pipeline.report.data import CLEAN_ANY, PUBLISHED, STAGES, Dataset, command
from pipeline.report.pictures import Album

PAIRS = 3
MOST_FAILURES = 100
LIBRARIES = (
    "medfocusclip", "numpy", "pandas", "scikit-learn", "scikit-image", "zarr", "xarray", "torch",
    "sam2", "open_clip_torch", "timm", "matplotlib",
)  # fmt: skip
DECIDING = ("pipeline", "stages", "params.yaml", "dvc.yaml", "data_manifests/prompts.yaml")
"""Files whose local changes are named next to the commit: they decide figures."""


def copies_section(data: Dataset, album: Album) -> Section | None:
    """Count the copies that the audit found, and show pairs of every kind."""
    if data.copies is None and data.pairs is None:
        return None
    blocks: list = []
    found = data.test_copies
    if found is not None:
        counts = zip(words.COPY_ROWS, found, strict=True)
        rows = [
            [head(name), n, Cell(percent(n / found.test), n / found.test, "number")]
            for name, n in counts
        ]
        blocks.append(Table(words.COPY_HEADERS, rows, words.COPY_CAPTION, class_mix(data)))
    pairs = data.pairs
    if pairs is not None and len(pairs):
        kinds = [*words.KINDS, *sorted(set(pairs["kind"]) - set(words.KINDS))]
        of = {kind: pairs[pairs["kind"] == kind] for kind in kinds}
        rows = [
            [head(words.KINDS.get(kind, kind)), len(mine), int(mine["leak"].sum()),
             int((mine["label_a"] != mine["label_b"]).sum())]
            for kind, mine in of.items()
        ]  # fmt: skip
        blocks.append(Table(words.KIND_HEADERS, rows, words.KIND_CAPTION))
        conflicts = pairs[pairs["label_a"] != pairs["label_b"]]
        shown = {words.CONFLICTS: conflicts}
        for kind, mine in of.items():
            shown[words.ACROSS.format(words.KINDS.get(kind, kind))] = mine[mine["leak"]]
        if not any(map(len, shown.values())):
            shown = {words.WITHIN: pairs}
        blocks += [pair_gallery(mine, title, album) for title, mine in shown.items() if len(mine)]
    elif pairs is not None:
        blocks.append(Text(words.NO_PAIRS))
    if data.audit is not None:
        blocks.append(Fold(words.AUDIT_COUNTS, [values_table(data.audit)], printed=False))
    summary = words.NO_TEST_PART
    if found is not None:
        summary = words.COPIES_SUMMARY.format(found.all, plural(found.test, "test image"))
    return Section("copies", words.COPIES, summary, blocks)


def class_mix(data: Dataset) -> str:
    """Say what the baseline loses without copies, and what of that the classes explain."""
    key = data.params.study.baseline.key
    full, clean = (data.accuracy(block).get(key, {}) for block in (PUBLISHED, CLEAN_ANY))
    most = max(clean, default=None)
    if most is None or CLEAN_ANY not in data.blocks or not is_known(clean[most].reweighted):
        return ""
    values = full[most].value, clean[most].value, clean[most].reweighted
    return words.CLASS_MIX.format(*map(percent, values))


def pair_gallery(pairs: pd.DataFrame, title: str, album: Album) -> Gallery:
    """Show the most similar pairs side by side."""
    order = ["score", "image_id_a", "image_id_b"]
    shown = pairs.sort_values(order, ascending=[False, True, True]).head(PAIRS)
    pictures = []
    for n, (_, r) in enumerate(shown.iterrows(), 1):
        for side in "ab":
            caption = words.PAIR.format(n, r[f"split_{side}"] or words.NO_PART, r[f"label_{side}"])
            pictures.append(album.picture(r[f"image_id_{side}"], caption, outlines=False))
    title = words.PAIRS_TITLE.format(title, plural(len(pairs), "pair"))
    return Gallery(title, pictures, more=len(pairs) - len(shown), pairs=True)


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Flatten nested dictionaries to (dotted name, text) pairs."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in flat(v, f"{name}.{k}" if name else str(k))]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value[:12])) + (", …" if len(value) > 12 else ""))]
    return [(name, str(value))]


def values_table(values: Any, caption: str = "") -> Table:
    """Return the leaves of nested dictionaries, one a row."""
    rows = [[head(name), value] for name, value in flat(values)]
    return Table(words.VALUE_HEADERS, rows, caption, sortable=False)


def records_section(data: Dataset, album: Album) -> Section:
    """Show failures, the run of each stage, and everything that identifies the stores."""
    failed = failures(data)
    text = words.FAILURES.format(plural(len(failed), "failure")) if failed else words.NO_FAILURES
    blocks: list = [Text(text, "warning" if failed else "note")]
    if failed:
        rows = [[Cell(s, look="bad"), head(i), reason] for s, i, reason in failed[:MOST_FAILURES]]
        more = more_text(len(failed) - MOST_FAILURES)
        blocks.append(Table(words.FAILURE_HEADERS, rows, note=more))
    if album.lost:
        rows = [[head(i), reason] for i, reason in sorted(album.lost.items())]
        blocks.append(Table(words.LOST_HEADERS, rows, words.LOST_MASKS))
    blocks += [Text(text, "note") for text in left_out(data)]
    if data.records:
        blocks.append(times_table(data))
    identity = {"sha256": data.manifest_sha256, "classes": data.classes}
    blocks.append(values_table(identity, words.MANIFEST.format(data.name)))
    stores = {words.MASK_STORE: data.masks, words.FEATURE_STORE: data.features}
    tables = [values_table(dict(s.identity), name) for name, s in stores.items() if s is not None]
    for stage, record in data.records.items():
        kept = {k: record[k] for k in ("parameters", "versions") if record.get(k)}
        tables += [values_table(kept, words.RECORD.format(stage))] if kept else []
    blocks.append(Fold(words.IDENTITIES, tables, printed=False))
    summary = words.RECORDS_SUMMARY.format(plural(len(failed), "failure"))
    return Section("records", words.RECORDS, summary, blocks)


def failures(data: Dataset) -> list[tuple[str, str, str]]:
    """Return (stage, image_id, reason) of every failed image, sorted; the store's reason counts."""
    found: dict[tuple[str, str], str] = {}
    for stage, store in (("segment", data.masks), ("encode", data.features)):
        if store is not None:
            table = data.in_manifest(store)
            for image_id, r in table[table["status"] == "failed"].iterrows():
                found[stage, str(image_id)] = str(r.get("reason") or words.NO_REASON)
    for stage, record in data.records.items():
        for image_id, reason in (record.get("failed") or {}).items():
            found.setdefault((stage, str(image_id)), str(reason))
    return [(*key, reason) for key, reason in sorted(found.items())]


def left_out(data: Dataset) -> list[str]:
    """Say which files and masks `data add` left out without calling it a failure."""
    parameters = data.records.get("add", {}).get("parameters") or {}
    skipped, masks = (parameters.get(key) or {} for key in ("skipped", "masks_left_out"))
    listed = "; ".join(f"{reason}: {n:,}" for reason, n in sorted(skipped.items()))
    said = [words.SKIPPED.format(listed)] if skipped else []
    return said + ([words.left_out(masks)] if masks else [])


def times_table(data: Dataset) -> Table:
    """Return stages x (status, counts, seconds) of the last runs that computed anything."""
    rows = []
    for stage, record in data.records.items():
        run = record if record.get("done") else record.get("last_computed") or record
        seconds = run.get("parts") or run.get("seconds") or {}
        seconds = seconds if isinstance(seconds, dict) else {"total": seconds}
        counts = (run.get("done"), run.get("skipped"), len(record.get("failed") or {}))
        times = (seconds.get(part) for part in ("total", "load_wait", "model", "write"))
        status = Cell(record.get("status") or MISSING, look="" if finished(record) else "bad")
        rows.append(
            [head(stage), status, run.get("started") or MISSING, *counts]
            + [Cell(number(t, 1), t, "number") for t in times]
        )
    return Table(words.TIME_HEADERS, rows, words.TIMES, words.TIMES_NOTE, sortable=False)


def finished(record: dict[str, Any]) -> bool:
    """Return whether a run ended with every image computed or counted as failed."""
    return record.get("status") in ("ok", "failed")


def warnings(data: Dataset, album: Album) -> list[str]:
    """Return what must be read before the figures: unfinished runs, lost masks, other labels."""
    said = []
    for stage, record in data.records.items():
        if stage.startswith(("train", "evaluate")) and not finished(record):
            root = f"{Path(data.paths.root).resolve()}/"
            error = str(record.get("error") or "").replace(root, "")
            status = words.STATUS.get(record["status"], record["status"])
            status += f" ({error})" if error else ""
            said.append(
                words.UNFINISHED.format(stage, status, command(stage.split("-")[0], data.name))
            )
    if album.lost:
        lost = sorted(album.lost)
        named = join(lost[:3]) + (" …" if len(lost) > 3 else "")
        again = command("segment", data.name)
        said.append(words.LOST.format(plural(len(lost), "mask"), named, again))
    return said


def made_section(params: Params, root: Path, datasets: Sequence[Dataset]) -> Section:
    """Return how to make the page again: commit, commands, versions, parameters."""
    names = [d.name for d in datasets]
    steps = [command(s, name) for name in names for s in STAGES[1:]]
    versions = {"git": git_commit(root), "Python": platform.python_version()}
    versions |= {name: version(name) for name in LIBRARIES}
    differs = differing(datasets, params)
    page = f"pipeline report {' '.join(f'--dataset {name}' for name in names)}"
    values = params.model_dump(mode="json", by_alias=True)
    parameters = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    blocks = [
        Text(words.MADE_TEXT),
        Code("\n".join([*steps, page])),
        Fold(words.VERSIONS, [values_table(versions)]),
        *([Text(words.DIFFERS, "warning"), Points(differs)] if differs else []),
        Fold(words.PARAMETERS, [Code(parameters)]),
    ]
    summary = words.MADE_SUMMARY.format(versions["git"], params.profile)
    return Section("made", words.MADE, summary, blocks)


def differing(datasets: Sequence[Dataset], params: Params) -> list[str]:
    """Name the parameters that the last run of a stage was given with another value."""
    found: dict[str, list[str]] = {}
    for data in datasets:
        for stage, record in data.records.items():
            stage = stage.split("-")[0]
            section = getattr(params, stage, None)
            held = record.get("parameters") or {}
            then = held[stage] if isinstance(held.get(stage), dict) else held
            now = {} if section is None else section.model_dump(mode="json")
            fields = {} if section is None else type(section).model_fields
            other = {
                f"{stage}.{field.alias or name}": then[name]
                for name, field in fields.items()
                if name in then and then[name] != now[name]
            }
            if held.get("profile", params.profile) != params.profile:
                other[f"profile ({stage})"] = held["profile"]
            for name, value in other.items():
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                found.setdefault(f"{name}: {shown}", []).append(data.name)
    return [words.DIFFERS_IN.format(what, join(names)) for what, names in found.items()]


def git_commit(root: Path) -> str:
    """Return the commit of the project folder, marked when files that decide figures differ."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        return words.NO_GIT
    return words.CHANGED_COMMIT.format(commit) if changed else commit


def version(name: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return words.NOT_INSTALLED
