"""Audit a dataset for copies, and for copies in another dataset: tables, a summary, its text."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.search import find_copies
from pipeline.audit.table import KINDS, connect, image_pairs, joined_to, name_groups
from pipeline.audit.thumbnails import Thumbnails, load_thumbnails
from pipeline.config import Params
from pipeline.engine.cluster import connected
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.errors import printable
from pipeline.io import ProcessLock, atomic_write, atomic_write_json
from pipeline.manifest import LABELLED, read_manifest
from pipeline.paths import Paths

LISTED = 50  # pairs and groups named in the summary; the parquet files have all
SHOWN = 20  # of these in the text
KIND_WORDS = {"byte": "same bytes", "near": "near-copy", "mirror": "mirrored", "turn": "turned"}
# Name of a count -> kinds of copies that it adds to those with the same bytes; its words.
LEAK_COUNTS = {
    "byte_identical": ((), "with the same bytes"),
    "near": (("near",), "near-copies too (re-saved, resized, brighter, contrast, shifted)"),
    "near_or_mirrored": (("near", "mirror"), "mirrored ones too"),
    "any": (("near", "mirror", "turn"), "turned ones too"),
}


def audit_dataset(
    dataset: str, params: Params, paths: Paths, options: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Find the copies in a dataset; writes audit.parquet, audit_pairs.parquet and audit.json.

    Their columns: docs/tables.md. Where there are more near-equal images than are paired, a test
    image counts as having a copy in train when a chain of copies joins it to one. Of the options
    the engine is used: its workers read the images and compare them.

    Returns:
        The content of audit.json (counts, `params.audit`, `unreadable` images with reasons), and
        `thumbnails_read`, the number of images that were not in the thumbnail cache.

    Raises:
        ManifestError: the manifest is missing or invalid.
        StoreError: another process, perhaps on another host, audits this dataset.
        StageFailed: more images cannot be read than `params.audit.max_failed` allows; the others
            are compared and all files written.
    """
    manifest = read_manifest(paths.manifest(dataset))
    parameters = params.audit.model_dump()
    total = len(manifest)
    record = RunRecord("audit", dataset, total=total, parameters=parameters)
    record.versions = library_versions()
    limit, path = params.audit.max_failed, paths.record(dataset, "audit")
    lock = audit_lock(dataset, paths)
    with connected(options) as pool, lock, recorded(record, path, max_failed=limit):
        thumbnails = load_thumbnails(manifest, dataset, paths, params.images.shown, pool)
        given = pool, paths.thumbnails(dataset)
        copies, cut = find_copies(thumbnails, None, params.audit, *given)
        table, leaks = _image_table(manifest, thumbnails.content, copies, cut)
        rows = manifest.assign(content=thumbnails.content)
        pairs = image_pairs(rows, rows, copies, within=True)
        summary = {"dataset": dataset, "parameters": parameters, "images": total}
        summary["test_images"] = int(manifest["split"].eq("test").sum())
        summary["test_images_with_copy_in_train"] = leaks
        summary |= _summary(manifest, thumbnails, table, pairs)
        with atomic_write(paths.audit(dataset)) as partial:
            table.to_parquet(partial, index=False)
        with atomic_write(paths.audit_pairs(dataset)) as partial:
            pairs.to_parquet(partial, index=False)
        atomic_write_json(paths.audit_summary(dataset), summary)
        record.failed = summary["unreadable"]
        record.done = thumbnails.read
        record.skipped = total - len(record.failed) - record.done
    return summary | {"thumbnails_read": thumbnails.read}


def compare_datasets(
    a: str, b: str, params: Params, paths: Paths, options: RunOptions = RunOptions()
) -> pd.DataFrame:
    """Find images of dataset `a` that are copies of images of dataset `b`; options as of
    `audit_dataset`.

    Returns:
        The columns of audit_pairs.parquet, image_id_a of dataset a and image_id_b of dataset b,
        best first. `.attrs["unreadable"]` is dataset -> image_id -> reason, `.attrs["images"]`
        is dataset -> number of images.
    """
    sets, rows, unreadable, images = [], [], {}, {}
    with connected(options) as pool, ExitStack() as locks:
        for name in sorted({a, b}):
            locks.enter_context(audit_lock(name, paths))
        for name in (a, b):
            manifest = read_manifest(paths.manifest(name))
            sets.append(load_thumbnails(manifest, name, paths, params.images.shown, pool))
            rows.append(manifest.assign(content=sets[-1].content))
            unreadable[name], images[name] = sets[-1].failures, len(manifest)
        copies, _ = find_copies(*sets, params.audit, pool, paths.thumbnails(a))
    pairs = image_pairs(*rows, copies, within=False)
    pairs.attrs.update(unreadable=unreadable, images=images)
    return pairs


def audit_lock(dataset: str, paths: Paths) -> ProcessLock:
    """Return the lock to hold while the thumbnails or tables of an audit are written: by the pid
    alone, half-written files of processes on several hosts cannot be told apart."""
    return ProcessLock(paths.audit(dataset).with_suffix(".lock"), guards="list of copies")


def _image_table(
    manifest: pd.DataFrame, content: np.ndarray, copies: pd.DataFrame, cut: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return audit.parquet, and the counts of test images with a copy in train or val."""
    count = int(content.max(initial=-1)) + 1
    near = copies[copies["kind"] == "near"]
    near_part, copy_part = (connect(count, c["left"], c["right"]) for c in (near, copies))
    is_test = manifest["split"].eq("test").to_numpy()
    learned = np.zeros(count, bool)
    learned[content[manifest["split"].isin(LABELLED).to_numpy()]] = True
    flags = {}  # of the test rows whose content, or a copy of these kinds, is in train or val
    for name, (kinds, _) in LEAK_COUNTS.items():
        known, unknown = (found[found["kind"].isin(kinds)] for found in (copies, cut))
        left, right = known["left"].to_numpy(), known["right"].to_numpy()
        flags[name] = is_test & joined_to(learned, left, right, unknown["content"])[content]
    paired = is_test & joined_to(learned, left, right, [])[content]  # the last, of all kinds
    flags["joined_by_chain"] = flags["any"] & ~paired
    parts = (content, near_part[content], copy_part[content])
    exact, near, copy = (name_groups(manifest["image_id"], part) for part in parts)
    labels = manifest["label"].groupby(copy).transform("nunique")
    table = manifest[["image_id", "sha256", "split"]].assign(
        exact_group=exact,
        near_group=near,
        copy_group=copy,
        copy_in_train=flags["near"],
        copy_in_train_any=flags["any"],
        label_conflict=labels.gt(1).to_numpy(),
    )
    return table, {name: int(flag.sum()) for name, flag in flags.items()}


def _summary(
    manifest: pd.DataFrame, thumbnails: Thumbnails, table: pd.DataFrame, pairs: pd.DataFrame
) -> dict[str, Any]:
    """Return counts and names of audit.json, sorted, so that equal input gives equal bytes."""
    blank = (thumbnails.readable & thumbnails.blank())[thumbnails.content]
    several = manifest[table["label_conflict"]].groupby(table["copy_group"])
    conflicts = [
        {"images": sorted(of["image_id"]), "labels": sorted(set(of["label"]))} for _, of in several
    ]
    leaks = pairs[pairs["leak"]]
    test = leaks["image_id_a"].where(leaks["split_a"] == "test", leaks["image_id_b"])
    return {
        "pairs": {kind: int((pairs["kind"] == kind).sum()) for kind in KINDS},
        "leaks": leaks[~test.duplicated()][:LISTED].round({"score": 4}).to_dict("records"),
        "known_groups": {name: _known_groups(manifest, name) for name in ("patient_id", "group")},
        "label_conflict_groups": len(conflicts),
        "label_conflicts": conflicts[:LISTED],
        "unreadable": thumbnails.failures,
        "blank": sorted(manifest.loc[blank, "image_id"]),
    }


def _known_groups(manifest: pd.DataFrame, column: str) -> dict[str, int]:
    """Count the patients or groups of the manifest, and those in test and in train or val."""
    known = manifest[manifest[column] != ""]
    test = known["split"].eq("test")
    both = set(known.loc[test, column]) & set(known.loc[known["split"].isin(LABELLED), column])
    return {
        "known": int(known[column].nunique()),
        "in_train_and_test": len(both),
        "test_images": int((test & known[column].isin(both)).sum()),
    }


def audit_text(summary: dict[str, Any], pairs: str) -> str:
    """Return counts, and the names of copies in both train and test or of several labels.

    Args:
        summary: of `audit_dataset`; its lists are cut at `SHOWN`.
        pairs: the file that lists all pairs.
    """
    leaks = summary["test_images_with_copy_in_train"]
    counts = ", ".join(f"{summary['pairs'][kind]} {words}" for kind, words in KIND_WORDS.items())
    lines = [
        f"{summary['dataset']}: {summary['images']} images, {summary['test_images']} of them test",
        f"pairs of copies: {counts}",
    ]
    if summary["test_images"]:
        lines += ["test images with a copy in train or val:"]
        lines += [f"  {leaks[name]} {words}" for name, (_, words) in LEAK_COUNTS.items()]
        rest = f"; all pairs: {pairs}; all images: audit.parquet"
        lines += _listed("such pairs:", map(_pair, summary["leaks"]), leaks["any"], rest)
    else:
        lines.append(
            "no test part yet: `train` draws one for each seed and keeps copies together; "
            f"all pairs: {pairs}"
        )
    if chain := leaks["joined_by_chain"]:
        lines.append(
            f"{chain} of them are joined to train or val by a chain of copies and are in no such "
            "pair: they are too many to compare each with each"
        )
    for column, words in (("patient_id", "patients"), ("group", "known groups")):
        facts = summary["known_groups"][column]
        if both := facts["in_train_and_test"]:
            lines.append(
                f"{both} of {facts['known']} {words} are in test and in train or val "
                f"({facts['test_images']} test images)"
            )
    conflicts = [
        f"{', '.join(map(printable, c['images']))}: {', '.join(c['labels'])}"
        for c in summary["label_conflicts"]
    ]
    total, rest = summary["label_conflict_groups"], "; the others: audit.parquet, label_conflict"
    lines += _listed(f"{total} groups of copies with several labels:", conflicts, total, rest)
    lines += _unreadable(summary["unreadable"], "images")
    blank = list(map(printable, summary["blank"]))
    lines += _listed(f"{len(blank)} blank images, compared by bytes only:", blank, len(blank))
    return "\n".join(lines)


def across_text(other: str, pairs: list[dict[str, Any]], unreadable: dict[str, str]) -> str:
    """Return the copies that another dataset has, and its images that cannot be read, by name."""
    named = [_pair(pair, f"{other}: ") for pair in pairs]
    lines = [f"{len(pairs)} pairs of copies across it and {other}"]
    lines += _listed("best first:", named, len(pairs))
    return "\n".join(lines + _unreadable(unreadable, f"images of {other}"))


def _pair(pair: dict[str, Any], other: str = "") -> str:
    a, b = pair["label_a"], pair["label_b"]
    labels = a if a == b else f"labelled {a} and {b}"
    kind = f"{KIND_WORDS[pair['kind']]}, {pair['score']:.3f}; {labels}"
    return f"{printable(pair['image_id_a'])} = {other}{printable(pair['image_id_b'])} ({kind})"


def _unreadable(reasons: dict[str, str], what: str) -> list[str]:
    named = [f"{printable(name)}: {why}" for name, why in reasons.items()]
    return _listed(f"{len(named)} {what} cannot be read:", named, len(named))


def _listed(title: str, lines: Iterable[str], total: int, rest: str = "") -> list[str]:
    """Return a title and the first `SHOWN` of `total` lines; [] when there are none."""
    shown = [f"  {line}" for line in lines][:SHOWN]
    more = [f"  and {total - len(shown)} more{rest}"] if total > len(shown) else []
    return [title, *shown, *more] if total else []
