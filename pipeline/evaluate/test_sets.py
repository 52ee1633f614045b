"""Which images are tested: subsets without copies, units that are resampled together, classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.config import CROSS_VALIDATED
from pipeline.evaluate.predictions import Run
from pipeline.splits.grouping import TIES, units, with_copies

POOLED = "-pooled"
"""Suffix of a cross-validated protocol whose folds are evaluated as one test set."""

COPIES = {"clean": "copy_in_train", "clean_any": "copy_in_train_any"}
"""Subset -> column of the leak audit that marks the images it leaves out."""


def subsets(audit: pd.DataFrame | None, protocol: str) -> dict[str, set[str] | None]:
    """Return the image ids of each subset; None = all images.

    `clean` leaves out test images with an exact copy or near-copy in train, `clean_any` also those
    with a mirrored or turned copy. Cross-validation keeps copies in one fold, so it has only
    `full`, as has every protocol without an audit.
    """
    found: dict[str, set[str] | None] = {"full": None}
    if audit is not None and protocol not in CROSS_VALIDATED:
        for name, column in COPIES.items():
            found[name] = set(audit.loc[~audit[column].astype(bool), "image_id"])
    return found


def blocks(
    runs: list[Run], manifest: pd.DataFrame, audit: pd.DataFrame | None
) -> Iterator[tuple[str, str, list[Run]]]:
    """Yield (protocol, subset, runs restricted to the subset), one block after the other.

    After each cross-validated protocol follows `<protocol>-pooled`: every image once, with the
    prediction of the first seed whose fold has it (more seeds than folds test some folds again).
    The runs then have one seed, -1, and their notes say how many images no seed tested.
    """
    for protocol in dict.fromkeys(run.protocol for run in runs):
        mine = [run for run in runs if run.protocol == protocol]
        for subset, ids in subsets(audit, protocol).items():
            kept = [run.restricted_to(ids) for run in mine]
            # A run all of whose seeds failed stays, with its errors.
            yield protocol, subset, [run for run in kept if run.seeds or not run.tested]
        if protocol in CROSS_VALIDATED:
            every = fold_images(manifest, protocol)
            yield f"{protocol}{POOLED}", "full", [run.pool(every) for run in mine]


def fold_images(manifest: pd.DataFrame, protocol: str) -> set[str]:
    """Return the images that the folds of a cross-validated protocol contain: all images, or, for
    `grouped_truth`, those whose ground-truth mask is not empty."""
    taken = pd.Series(True, index=manifest.index)
    if protocol == "grouped_truth":
        taken = (manifest["mask_path"] != "") & (manifest["mask_area"] != "0")
    return set(manifest.loc[taken, "image_id"])


def image_units(manifest: pd.DataFrame, audit: pd.DataFrame | None) -> dict[str, str]:
    """Return the unit of each image id, the same units that the splits keep together.

    A unit is a patient, a group, the frames of one file and, with an audit, their copies (mirrored
    and turned ones too), joined. Its name is the smallest image id in it. Copies are not
    independent: drawn one by one they would make intervals too narrow.

    Raises:
        ManifestError: the audit is of other images.
    """
    table = with_copies(manifest, audit)
    return dict(zip(table["image_id"], units(table, TIES), strict=True))


def test_set_row(protocol: str, subset: str, runs: list[Run], classes: list[str]) -> dict | None:
    """Return the row of plots/test_sets.csv for one block; None when nothing was tested.

    The largest class is that of most test images; `largest_share` is the accuracy of always
    answering it, the mean over seeds (folds), as for accuracy.
    """
    tests = {seed: part for run in runs for seed, part in run.seeds.items()}
    if not tests:
        return None
    labels = {i: y for part in tests.values() for i, y in zip(part.ids, part.y, strict=True)}
    counts = np.bincount(list(labels.values()), minlength=len(classes))
    largest = int(counts.argmax())
    return {
        "protocol": protocol,
        "subset": subset,
        "n_images": len(labels),
        "n_classes": int((counts > 0).sum()),
        "missing_classes": "; ".join(c for c, n in zip(classes, counts, strict=True) if not n),
        "largest_class": classes[largest],
        "largest_share": float(np.mean([(part.y == largest).mean() for part in tests.values()])),
    }
