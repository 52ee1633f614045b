"""The official parts: the publisher's train and test, and what is done about copies in both."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config import SplitsParams
from pipeline.splits.parts import carve_test


def official_parts(
    table: pd.DataFrame, groups: np.ndarray, params: SplitsParams
) -> tuple[np.ndarray, list[str]]:
    """Return the part of each row ("train", "val", "test", "" = none) and notes.

    Args:
        table: manifest rows.
        groups: unit of each row, of patients, groups, files and copies (mirrored ones too).
        params: `on_leak` warn: the publisher's parts as they are; drop-test: without the test
            images whose unit is in train or val too; drop-train: without the training images
            whose unit is in test too; regroup: the publisher's parts are given up for a new
            stratified test part in whole units. Where no image has a split, such a part is taken
            too; where some say train and none says test, nothing is tested.
    """
    split = table["split"].to_numpy(object).copy()
    labels = table["label"].to_numpy(object)
    notes: list[str] = []
    if params.on_leak == "regroup" or not np.isin(split, ["train", "test"]).any():
        if params.on_leak == "regroup":
            split = np.full(len(table), "", dtype=object)
        else:
            notes.append("the manifest gives no test part: a stratified one is taken")
        test, found = carve_test(labels, groups, params.test, params.seed)
        parts = np.where(test, "test", np.where(split == "val", "val", "train")).astype(object)
        return parts, notes + found
    if not (split == "train").any():
        split[split == ""] = "train"
    elif (split == "").any():
        notes.append(f"{(split == '').sum()} images without a split take no part")
    if not (split == "test").any():
        notes.append(
            "images say train and no image says test, so heads are trained and none is tested; "
            "splits.on_leak: regroup takes a test part"
        )
        return split, notes
    notes += _drop_straddling(split, groups, params.on_leak)
    for label in sorted(set(labels) - set(labels[split == "test"])):
        notes.append(f"class {label!r} has no test image")
    return split, notes


def _drop_straddling(split: np.ndarray, groups: np.ndarray, on_leak: str) -> list[str]:
    if on_leak not in ("drop-test", "drop-train"):
        return []
    test, train = split == "test", (split == "train") | (split == "val")
    part, other = (test, train) if on_leak == "drop-test" else (train, test)
    drop = part & np.isin(groups, groups[other])
    split[drop] = ""
    where = "train" if on_leak == "drop-test" else "test"
    return [
        f"{drop.sum()} {on_leak[5:]} images that belong with one in {where} (copy, patient, group "
        "or file) are left out"
    ]
