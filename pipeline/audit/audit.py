"""Audit a dataset for copies, and for copies in another dataset; writes tables and a summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.search import find_copies
from pipeline.audit.table import KINDS, LEARNED, connect, image_pairs, joined_to, name_groups
from pipeline.audit.thumbnails import Thumbnails, load_thumbnails
from pipeline.config import Params
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.io import atomic_write, atomic_write_json
from pipeline.manifest import read_manifest
from pipeline.paths import Paths

LISTED = 50  # pairs and groups named in the summary; the parquet files have all


def audit_dataset(dataset: str, params: Params, paths: Paths) -> dict[str, Any]:
    """Find the copies in a dataset; writes audit.parquet, audit_pairs.parquet and audit.json.

    Their columns: docs/tables.md. Where there are more near-equal images than are paired, a test
    image counts as having a copy in train when a chain of copies joins it to one.

    Args:
        dataset: name in params.yaml.
        params: `params.audit` holds the thresholds.
        paths: the project folder.

    Returns:
        The content of audit.json (counts, parameters, `unreadable` images with reasons), and
        `thumbnails_read`, the number of images that were not in the thumbnail cache. The run
        record is cache/<dataset>/records/audit.json, after a failure or Ctrl-C too.

    Raises:
        ManifestError: the manifest is missing or invalid.
        StageFailed: more images cannot be read than `params.audit.max_failed` allows; the others
            are compared and all files written.
    """
    manifest = read_manifest(paths.manifest(dataset))
    parameters = params.audit.model_dump()
    versions, total = library_versions(), len(manifest)
    record = RunRecord("audit", dataset, total=total, versions=versions, parameters=parameters)
    with recorded(record, paths.record(dataset, "audit"), max_failed=params.audit.max_failed):
        thumbnails = load_thumbnails(manifest, paths.data(dataset), paths.thumbnails(dataset))
        copies, cut = find_copies(thumbnails, None, params.audit)
        table, leaks = _image_table(manifest, thumbnails.content, copies, cut)
        rows = manifest.assign(content=thumbnails.content)
        pairs = image_pairs(rows, rows, copies, within=True)
        summary = {"dataset": dataset, "parameters": parameters, **leaks}
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


def compare_datasets(a: str, b: str, params: Params, paths: Paths) -> pd.DataFrame:
    """Find images of one dataset that are copies of images of another.

    Args:
        a, b: names of the datasets.
        params: `params.audit` holds the thresholds.
        paths: the project folder; thumbnails are cached there.

    Returns:
        The columns of audit_pairs.parquet, image_id_a of dataset a and image_id_b of dataset b,
        best first. `.attrs["unreadable"]` is dataset -> image_id -> reason, `.attrs["images"]`
        is dataset -> number of images.
    """
    sets, rows, unreadable, images = [], [], {}, {}
    for name in (a, b):
        manifest = read_manifest(paths.manifest(name))
        sets.append(load_thumbnails(manifest, paths.data(name), paths.thumbnails(name)))
        rows.append(manifest.assign(content=sets[-1].content))
        unreadable[name], images[name] = sets[-1].failures, len(manifest)
    copies, _ = find_copies(*sets, params.audit)
    pairs = image_pairs(*rows, copies, within=False)
    pairs.attrs.update(unreadable=unreadable, images=images)
    return pairs


def _image_table(
    manifest: pd.DataFrame, content: np.ndarray, copies: pd.DataFrame, cut: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return audit.parquet, and the counts of test images with a copy in train or val."""
    count = int(content.max(initial=-1)) + 1
    ids = manifest["image_id"]
    near = copies[copies["kind"] == "near"]
    near_part, copy_part = (connect(count, c["left"], c["right"]) for c in (near, copies))
    is_test = manifest["split"].eq("test").to_numpy()
    learned = np.zeros(count, bool)
    learned[content[manifest["split"].isin(LEARNED).to_numpy()]] = True

    def leaks(*kinds: str, chains: bool = True) -> np.ndarray:
        """Return the test rows whose content, or a copy of these kinds, is in train or val.

        With `chains` also a copy of a copy, where not all pairs are known.
        """
        known, unknown = (found[found["kind"].isin(kinds)] for found in (copies, cut))
        unknown = unknown["content"] if chains else []
        left, right = known["left"].to_numpy(), known["right"].to_numpy()
        return is_test & joined_to(learned, left, right, unknown)[content]

    every = ("near", "mirror", "turn")
    flags = {
        "byte_identical": leaks(),
        "near": leaks("near"),
        "near_or_mirrored": leaks("near", "mirror"),
        "any": leaks(*every),
    }
    copy_group = name_groups(ids, copy_part[content])
    labels = manifest["label"].groupby(copy_group).transform("nunique")
    table = manifest[["image_id", "sha256", "split"]].assign(
        exact_group=name_groups(ids, content),
        near_group=name_groups(ids, near_part[content]),
        copy_group=copy_group,
        copy_in_train=flags["near"],
        copy_in_train_any=flags["any"],
        label_conflict=labels.gt(1).to_numpy(),
    )
    return table, {
        "images": len(manifest),
        "test_images": int(is_test.sum()),
        "test_images_with_copy_in_train": {name: int(flag.sum()) for name, flag in flags.items()},
        # Marked, but in no pair of their own: see `joined_to`.
        "joined_by_chain": int((flags["any"] & ~leaks(*every, chains=False)).sum()),
    }


def _summary(
    manifest: pd.DataFrame, thumbnails: Thumbnails, table: pd.DataFrame, pairs: pd.DataFrame
) -> dict[str, Any]:
    """Return counts and names of audit.json, sorted, so that equal input gives equal bytes."""
    blank = (thumbnails.readable & thumbnails.blank())[thumbnails.content]
    conflicts = [
        {
            "images": sorted(members["image_id"]),
            "labels": sorted(set(manifest.loc[members.index, "label"])),
        }
        for _, members in table[table["label_conflict"]].groupby("copy_group")
    ]
    return {
        "pairs": {kind: int((pairs["kind"] == kind).sum()) for kind in KINDS},
        "leaks": _named_leaks(manifest, table, pairs),
        "known_groups": {name: _known_groups(manifest, name) for name in ("patient_id", "group")},
        "label_conflict_groups": len(conflicts),
        "label_conflicts": conflicts[:LISTED],
        "unreadable": thumbnails.failures,
        "blank": sorted(manifest.loc[blank, "image_id"]),
    }


def _named_leaks(
    manifest: pd.DataFrame, table: pd.DataFrame, pairs: pd.DataFrame
) -> list[dict[str, Any]]:
    """List each test image that has a copy in train or val, the copy, their kind and labels.

    The best of each kind come first. Of byte-identical test images one stands for the rest in
    `pairs`; here each is listed.
    """
    label = manifest.set_index("image_id")["label"]
    group = table.set_index("image_id")["exact_group"]
    leaks = pairs[pairs["leak"]]
    a, b, a_is_test = leaks["image_id_a"], leaks["image_id_b"], leaks["split_a"].eq("test")
    leaks = leaks[["kind", "score"]].assign(test=a.where(a_is_test, b), train=b.where(a_is_test, a))
    leaks = leaks.drop_duplicates("test")
    leaks["group"] = leaks["test"].map(group)
    leaks = leaks.loc[leaks.groupby("kind").cumcount().sort_values(kind="stable").index]
    test = sorted(table.loc[table["split"].eq("test"), "image_id"])
    twins = pd.DataFrame({"group": group[test].to_numpy(), "test": test})
    named = leaks.drop(columns="test").merge(twins, on="group").drop_duplicates("test")[:LISTED]
    labels = {f"label_{side}": named[side].map(label) for side in ("test", "train")}
    named = named.assign(score=named["score"].round(4), **labels)
    return named.drop(columns="group").to_dict("records")


def _known_groups(manifest: pd.DataFrame, column: str) -> dict[str, int]:
    """Count the patients or groups of the manifest, and those in test and in train or val."""
    known = manifest[manifest[column] != ""]
    test = known["split"].eq("test")
    both = set(known.loc[test, column]) & set(known.loc[known["split"].isin(LEARNED), column])
    return {
        "known": int(known[column].nunique()),
        "in_train_and_test": len(both),
        "test_images": int((test & known[column].isin(both)).sum()),
    }
