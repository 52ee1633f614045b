"""Audit a dataset for copies, and for copies in another dataset; writes tables and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.search import find_copies
from pipeline.audit.table import (
    KINDS,
    LEARNED,
    byte_pairs,
    byte_pairs_across,
    connect,
    copy_pairs,
    first_of_splits,
    image_rows,
    joined_to,
    name_groups,
    sort_pairs,
)
from pipeline.audit.thumbnails import Thumbnails, load_thumbnails
from pipeline.config import Params
from pipeline.engine.record import RunRecord, library_versions, recorded
from pipeline.io import atomic_write, atomic_write_json
from pipeline.manifest import read_manifest
from pipeline.paths import Paths

LISTED = 50  # pairs and groups named in the summary; the parquet files have all


def audit_dataset(dataset: str, params: Params, paths: Paths) -> dict[str, Any]:
    """Find the copies in a dataset; writes audit.parquet, audit_pairs.parquet and audit.json.

    audit.parquet has one row per image, in the manifest's order: image_id, sha256, split;
    exact_group (same bytes and frame), near_group (also re-saved, resized, other brightness or
    contrast, slightly shifted), copy_group (also mirrored or turned); copy_in_train (a test image
    with an exact or near copy in train or val), copy_in_train_any (mirrored and turned copies as
    well), label_conflict (its copy_group has several labels). A group is named by the first
    image_id in it. Where there are more near-equal images than are paired, a test image counts as
    having a copy in train when a chain of copies joins it to one.

    audit_pairs.parquet (see `table.COLUMNS`) lists pairs, best first. Of byte-identical images one
    per split stands for the rest.

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
    record = RunRecord(
        "audit",
        dataset,
        total=len(manifest),
        versions=library_versions(),
        parameters=params.audit.model_dump(),
    )
    with recorded(record, paths.record(dataset, "audit"), max_failed=params.audit.max_failed):
        thumbnails = load_thumbnails(manifest, paths.data(dataset), paths.thumbnails(dataset))
        copies, cut = find_copies(thumbnails, None, params.audit)
        table, flags = _image_table(manifest, thumbnails.content, copies, cut)
        rows = image_rows(manifest, thumbnails.content)
        within = copy_pairs(first_of_splits(rows), first_of_splits(rows), copies, swap=True)
        pairs = sort_pairs(pd.concat([byte_pairs(rows), within]))
        summary = _summary(dataset, manifest, thumbnails, table, pairs, flags)
        summary["parameters"] = params.audit.model_dump()
        with atomic_write(paths.audit(dataset)) as partial:
            table.to_parquet(partial, index=False)
        with atomic_write(paths.audit_pairs(dataset)) as partial:
            pairs.to_parquet(partial, index=False)
        atomic_write_json(paths.audit_summary(dataset), summary)
        record.failed = dict(summary["unreadable"])
        readable = len(manifest) - len(record.failed)
        # One thumbnail serves all files of the same bytes.
        all_new = thumbnails.read == (thumbnails.positions >= 0).sum()
        record.copied = readable - thumbnails.read if all_new else 0
        record.done = thumbnails.read + record.copied
        record.skipped = readable - record.done
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
    manifests = [read_manifest(paths.manifest(name)) for name in (a, b)]
    sets = [
        load_thumbnails(manifest, paths.data(name), paths.thumbnails(name))
        for name, manifest in zip((a, b), manifests, strict=True)
    ]
    copies, _ = find_copies(*sets, params.audit)
    rows = [image_rows(m, part.content) for m, part in zip(manifests, sets, strict=True)]
    pairs = pd.concat([byte_pairs_across(*manifests), copy_pairs(*rows, copies, swap=False)])
    pairs = sort_pairs(pairs).drop_duplicates(["image_id_a", "image_id_b"], ignore_index=True)
    named = list(zip((a, b), manifests, sets, strict=True))
    pairs.attrs["unreadable"] = {
        name: {manifest["image_id"].iloc[row]: why for row, why in sorted(part.failures.items())}
        for name, manifest, part in named
    }
    pairs.attrs["images"] = {name: len(manifest) for name, manifest, _ in named}
    return pairs


def straddling_pairs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return pairs to show from audit_pairs.parquet: one per test image, the kinds taking turns.

    Returns:
        Rows of `pairs`, best of each kind first, with `image_id_test` and `image_id_train`.
    """
    leaks = sort_pairs(pairs[pairs["straddles"]])
    a, b, a_is_test = leaks["image_id_a"], leaks["image_id_b"], leaks["split_a"].eq("test")
    leaks["image_id_test"], leaks["image_id_train"] = a.where(a_is_test, b), b.where(a_is_test, a)
    leaks = leaks.drop_duplicates("image_id_test")
    turn = leaks.groupby("kind").cumcount()
    return leaks.loc[turn.sort_values(kind="stable").index].reset_index(drop=True)


def _image_table(
    manifest: pd.DataFrame, content: np.ndarray, copies: pd.DataFrame, cut: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return audit.parquet, and by kind of copy which rows are test images with one in train."""
    count = int(content.max(initial=-1)) + 1
    ids = manifest["image_id"].tolist()
    near = copies[copies["kind"] == "near"]
    near_part, copy_part = (connect(count, c["left"], c["right"]) for c in (near, copies))
    is_test = manifest["split"].eq("test").to_numpy()
    learned = np.zeros(count, bool)
    learned[content[manifest["split"].isin(LEARNED).to_numpy()]] = True

    def leaks(
        *kinds: str, by: Sequence[str] = ("thumbnail", "structure"), chains: bool = True
    ) -> np.ndarray:
        """Return the test rows whose content, or a copy of it, is in train or val.

        With `chains` also a copy of a copy, where not all pairs are known.
        """
        known, unknown = (f[f["kind"].isin(kinds) & f["by"].isin(by)] for f in (copies, cut))
        left, right = known["left"].to_numpy(), known["right"].to_numpy()
        unknown = unknown["content"] if chains else []
        return is_test & joined_to(learned, left, right, unknown)[content]

    wider = {
        "near": ("near",),
        "near_or_mirrored": ("near", "mirror"),
        "any": ("near", "mirror", "turn"),
    }
    flags = {"byte_identical": leaks()}
    flags |= {name: leaks(*kinds) for name, kinds in wider.items()}
    flags |= {
        f"{name}_by_thumbnail": leaks(*kinds, by=["thumbnail"]) for name, kinds in wider.items()
    }
    flags["any_by_pair"] = leaks(*wider["any"], chains=False)
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
    """Return the counts of audit.json; lists are sorted, so that equal input gives equal bytes."""
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
    return {
        "dataset": dataset,
        "images": len(manifest),
        "test_images": int(manifest["split"].eq("test").sum()),
        "test_images_with_copy_in_train": {name: int(flag.sum()) for name, flag in flags.items()},
        "groups": {name: sizes(f"{name}_group") for name in ("exact", "near", "copy")},
        # Marked, but in no pair of their own: see `joined_to`.
        "joined_by_chain": int((flags["any"] & ~flags["any_by_pair"]).sum()),
        "pairs": {kind: int(kinds.get(kind, 0)) for kind in KINDS},
        "pairs_straddling": {kind: int(leaks.get(kind, 0)) for kind in KINDS},
        "straddling": _named_leaks(manifest, table, pairs),
        "known_groups": {name: _known_groups(manifest, name) for name in ("patient_id", "group")},
        "label_conflict_groups": len(conflicts),
        "label_conflicts": conflicts[:LISTED],
        "unreadable": dict(sorted(unread.items())),
        "blank": sorted(ids[np.isin(thumbnails.content, blank)]),
    }


def _named_leaks(
    manifest: pd.DataFrame, table: pd.DataFrame, pairs: pd.DataFrame
) -> list[dict[str, Any]]:
    """List each test image that has a copy in train or val, the copy, their kind and labels.

    Of byte-identical test images one stands for the rest in `pairs`; here each is listed.
    """
    leaks = straddling_pairs(pairs)
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


def _known_groups(manifest: pd.DataFrame, column: str) -> dict[str, int]:
    """Count the patients or groups that the manifest states, and those that straddle."""
    known = manifest[manifest[column] != ""]
    test = known["split"].eq("test")
    both = set(known.loc[test, column]) & set(known.loc[known["split"].isin(LEARNED), column])
    return {
        "known": int(known[column].nunique()),
        "straddling": len(both),
        "test_images": int((test & known[column].isin(both)).sum()),
    }
