"""Audit one dataset: groups of copies, and which of them straddle train and test."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.copies import Copies, find_copies
from pipeline.audit.groups import connect, joined_to, name_groups
from pipeline.audit.table import byte_pairs, pair_table, sort_pairs
from pipeline.audit.thumbnails import Thumbnails, load_thumbnails
from pipeline.config import Params
from pipeline.engine.record import RunRecord, library_versions
from pipeline.engine.recorded import recorded
from pipeline.io import atomic_write, atomic_write_json
from pipeline.manifest import read_manifest
from pipeline.paths import Paths

LEARNED = ("train", "val")  # parts that a model has seen: a copy of them in test is a leak
LISTED = 50  # pairs and groups named in the summary; the parquet files have all


def audit_dataset(dataset: str, params: Params, paths: Paths) -> dict[str, Any]:
    """Find the copies in a dataset; writes audit.parquet, audit_pairs.parquet and audit.json.

    audit.parquet, one row an image in the manifest's order: image_id, sha256, split,
    exact_group (same bytes and frame), near_group (also re-saved, resized, brighter, other
    contrast, slightly shifted), copy_group (also mirrored, turned), copy_in_train (a test image
    that has an exact or near copy in train or val; where there are more near-equal images than are
    paired, one joined to train or val by a chain of them), copy_in_train_any (mirrored and turned
    copies as well), label_conflict (its copy_group holds several labels). A group bears the
    image_id of its first member; an image that is alone its own.

    audit_pairs.parquet, best first: image_id_a, image_id_b, split_a, split_b, label_a, label_b,
    kind (byte | near | mirror | turn), score (correlation), straddles (one in test, the other in
    train or val), by (bytes | thumbnail | structure: what found it). Of byte-identical images one
    per part of the dataset stands for the rest.

    Args:
        dataset: name in params.yaml.
        params: `params.audit` holds the thresholds.
        paths: the project folder.

    Returns:
        the content of audit.json (counts, parameters, `unreadable` images by name and reason), and
        `thumbnails_read`, the images that were not in the thumbnail cache yet. The record of the
        run is cache/<dataset>/records/audit.json, after a failure or Ctrl-C too.

    Raises:
        ManifestError: the manifest is missing or wrong.
        StageFailed: more images cannot be read than `params.audit.max_failed` allows; the others
            are compared and all files written.
    """
    manifest = read_manifest(paths.manifest(dataset))
    record = RunRecord(
        "audit",
        dataset,
        total=len(manifest),
        versions=library_versions(),
        parameters=params.audit.model_dump(),
    )
    path = paths.record(dataset, "audit")
    with recorded(record, path, max_failed=params.audit.max_failed):
        return _audit(record, manifest, params, paths)


def _audit(
    record: RunRecord, manifest: pd.DataFrame, params: Params, paths: Paths
) -> dict[str, Any]:
    """Do what `audit_dataset` says and fill in the record."""
    dataset = record.dataset
    thumbnails = load_thumbnails(manifest, paths.data(dataset), paths.thumbnails(dataset))
    copies = find_copies(thumbnails, None, params.audit)
    table, flags = _table(manifest, thumbnails.content, copies)
    pairs = sort_pairs(
        pd.concat(
            [
                byte_pairs(manifest, thumbnails.content),
                pair_table(manifest, thumbnails.content, manifest, thumbnails.content, copies),
            ]
        )
    )
    summary = _summary(dataset, manifest, thumbnails, table, pairs, flags)
    summary["parameters"] = params.audit.model_dump()
    with atomic_write(paths.audit(dataset)) as partial:
        table.to_parquet(partial, index=False)
    with atomic_write(paths.audit_pairs(dataset)) as partial:
        pairs.to_parquet(partial, index=False)
    atomic_write_json(paths.audit_summary(dataset), summary)
    record.failed = summary["unreadable"]
    readable = len(manifest) - len(record.failed)
    # One thumbnail serves all files of the same bytes.
    all_new = thumbnails.read == (thumbnails.positions >= 0).sum()
    twins = readable - thumbnails.read if all_new else 0
    record.done, record.copied = thumbnails.read + twins, twins
    record.skipped = readable - record.done
    return copy.deepcopy(summary) | {"thumbnails_read": thumbnails.read}


def straddling_pairs(pairs: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return at most `limit` pairs to show: one per test image, the kinds taking turns.

    Args:
        pairs: audit_pairs.parquet.
        limit: rows returned.

    Returns:
        rows of `pairs`, best of each kind first, with `image_id_test` and `image_id_train`.
    """
    leaks = pairs[pairs["straddles"]].copy()
    in_test = leaks["split_a"].eq("test")
    leaks["image_id_test"] = leaks["image_id_a"].where(in_test, leaks["image_id_b"])
    leaks["image_id_train"] = leaks["image_id_b"].where(in_test, leaks["image_id_a"])
    leaks = sort_pairs(leaks).drop_duplicates("image_id_test")
    turn = leaks.groupby("kind", sort=False).cumcount()
    return (
        leaks.assign(_turn=turn)
        .sort_values("_turn", kind="stable")
        .drop(columns="_turn")
        .head(limit)
        .reset_index(drop=True)
    )


def _named(manifest: pd.DataFrame, table: pd.DataFrame, pairs: pd.DataFrame) -> list[dict]:
    """Name each test image that has a copy in train or val, the copy, their kind and labels.

    Of byte-identical test images one stands for the rest in `pairs`; here each is named.
    """
    leaks = straddling_pairs(pairs, len(pairs))
    label = manifest.set_index("image_id")["label"]
    group = table.set_index("image_id")["exact_group"]
    test = manifest.loc[manifest["split"].eq("test"), "image_id"]
    twins = test.groupby(group.loc[test].to_numpy()).agg(list)
    named: dict[str, dict] = {}
    for row in leaks.itertuples():
        for image_id in (row.image_id_test, *twins[group[row.image_id_test]]):
            named.setdefault(
                image_id,
                {
                    "test": image_id,
                    "train": row.image_id_train,
                    "kind": row.kind,
                    "score": round(row.score, 4),
                    "label_test": label[image_id],
                    "label_train": label[row.image_id_train],
                },
            )
        if len(named) >= LISTED:
            break
    return list(named.values())[:LISTED]


def _known(manifest: pd.DataFrame, column: str) -> dict[str, int]:
    """Count the patients or groups that the manifest knows, and those that straddle."""
    known = manifest[manifest[column] != ""]
    test = known["split"].eq("test")
    both = set(known.loc[test, column]) & set(known.loc[known["split"].isin(LEARNED), column])
    return {
        "known": int(known[column].nunique()),
        "straddling": len(both),
        "test_images": int((test & known[column].isin(both)).sum()),
    }


def _table(
    manifest: pd.DataFrame, content: np.ndarray, copies: Copies
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return audit.parquet, and per kind of copy which rows are test images with one in train."""
    count = int(content.max(initial=-1)) + 1
    ids = manifest["image_id"].tolist()
    near = copies.kind == "near"
    near_part = connect(count, copies.left[near], copies.right[near])
    copy_part = connect(count, copies.left, copies.right)
    is_test = manifest["split"].eq("test").to_numpy()
    learned = np.zeros(count, bool)
    learned[content[manifest["split"].isin(LEARNED).to_numpy()]] = True

    def leaks(
        *kinds: str, ways: Sequence[str] = ("thumbnail", "structure"), chains: bool = True
    ) -> np.ndarray:
        """Test rows whose content, or one joined to it by such a pair, is in train or val.

        With `chains` also by several pairs, where not all pairs are known.
        """
        chosen, cut = (
            np.isin(found.kind, kinds) & np.isin(found.by, ways) for found in (copies, copies.cut)
        )
        left, right = copies.left[chosen], copies.right[chosen]
        unknown = copies.cut.content[cut & chains]
        return is_test & joined_to(learned, left, right, unknown)[content]

    mirrored, turned = ("near", "mirror"), ("near", "mirror", "turn")
    flags = {
        "byte_identical": leaks(),
        "near": leaks("near"),
        "near_or_mirrored": leaks(*mirrored),
        "any": leaks(*turned),
        "near_by_thumbnail": leaks("near", ways=["thumbnail"]),
        "near_or_mirrored_by_thumbnail": leaks(*mirrored, ways=["thumbnail"]),
        "any_by_thumbnail": leaks(*turned, ways=["thumbnail"]),
        "any_by_pair": leaks(*turned, chains=False),
    }
    copy_group = name_groups(ids, copy_part[content])
    labels = manifest["label"].groupby(copy_group).transform("nunique")
    table = pd.DataFrame(
        {
            "image_id": manifest["image_id"],
            "sha256": manifest["sha256"],
            "split": manifest["split"],
            "exact_group": name_groups(ids, content),
            "near_group": name_groups(ids, near_part[content]),
            "copy_group": copy_group,
            "copy_in_train": flags["near"],
            "copy_in_train_any": flags["any"],
            "label_conflict": labels.gt(1).to_numpy(),
        }
    )
    return table, flags


def _summary(
    dataset: str,
    manifest: pd.DataFrame,
    thumbnails: Thumbnails,
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    flags: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Return the counts of audit.json; every list is sorted, so equal input gives equal bytes."""
    ids = manifest["image_id"].to_numpy(dtype=object)
    unread = {ids[row]: reason for row, reason in thumbnails.failures.items()}
    blank = np.setdiff1d(np.flatnonzero(thumbnails.positions >= 0), thumbnails.comparable())
    conflicts = [
        {
            "images": sorted(members["image_id"]),
            "labels": sorted(set(manifest.loc[members.index, "label"])),
        }
        for _, members in table[table["label_conflict"]].groupby("copy_group")
    ]

    def sizes(column: str) -> dict[str, int]:
        several = table[column].value_counts()
        several = several[several > 1]
        return {"groups": len(several), "images": int(several.sum())}

    kinds = pairs["kind"].value_counts()
    leaks = pairs.loc[pairs["straddles"], "kind"].value_counts()
    order = ("byte", "near", "mirror", "turn")
    return {
        "dataset": dataset,
        "images": len(manifest),
        "test_images": int(manifest["split"].eq("test").sum()),
        "test_images_with_copy_in_train": {name: int(flag.sum()) for name, flag in flags.items()},
        "groups": {name: sizes(f"{name}_group") for name in ("exact", "near", "copy")},
        # Marked, but by no pair of their own: see `joined_to`.
        "joined_by_chain": int((flags["any"] & ~flags["any_by_pair"]).sum()),
        "pairs": {kind: int(kinds.get(kind, 0)) for kind in order},
        "pairs_straddling": {kind: int(leaks.get(kind, 0)) for kind in order},
        "straddling": _named(manifest, table, pairs),
        "known_groups": {name: _known(manifest, name) for name in ("patient_id", "group")},
        "label_conflict_groups": len(conflicts),
        "label_conflicts": conflicts[:LISTED],
        "unreadable": dict(sorted(unread.items())),
        "blank": sorted(ids[np.isin(thumbnails.content, blank)]),
    }
