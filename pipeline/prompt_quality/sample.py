"""Which images are judged: a seeded sample of those with a ground-truth mask, by class."""

from __future__ import annotations

import hashlib

import pandas as pd


def truth_sample(manifest: pd.DataFrame, images: int, seed: int) -> pd.DataFrame:
    """Draw images that have a ground-truth mask with something in it.

    The set's own test part comes first, since the weights may have seen masks of the rest; other
    images fill up what it lacks. Each part is drawn in proportion to its classes. The draw
    depends on the images' bytes and the seed alone, not on the order or the names of rows.

    Args:
        manifest: as read_manifest gives it.
        images: how many; 0 = all.
        seed: of the draw.

    Returns:
        The rows, in the manifest's order; all there are when these are fewer.
    """
    # An area that was not counted ("") is looked at when the mask is read.
    having = manifest[(manifest["mask_path"] != "") & (manifest["mask_area"] != "0")]
    if not images or images >= len(having):
        return having
    rank = {
        row.Index: hashlib.sha256(f"{seed}\n{row.sha256}#{row.frame}".encode()).hexdigest()
        for row in having.itertuples()
    }
    chosen: list = []
    test = having["split"] == "test"
    for part in (having[test], having[~test]):
        for label, count in shares(part["label"], images - len(chosen)).items():
            rows = part.index[part["label"] == label]
            chosen += sorted(rows, key=lambda i: (rank[i], part.at[i, "image_id"]))[:count]
    return having.loc[sorted(chosen)]


def shares(labels: pd.Series, total: int) -> dict[str, int]:
    """Deal `total` out to the classes in proportion to their size (largest remainder).

    A class gets at most what it has, and at least one while there are as many to deal as classes.
    """
    counts = labels.value_counts().sort_index()
    total = min(total, len(labels))
    if not total:
        return {}
    exact = counts * (total / len(labels))
    dealt = exact.astype(int)
    if total >= len(counts):
        dealt = dealt.clip(lower=1)
    for label in (exact - dealt).sort_values(ascending=False, kind="stable").index:
        if dealt.sum() < total and dealt[label] < counts[label]:
            dealt[label] += 1
    while dealt.sum() > total:  # the classes that were lifted to one have taken from the largest
        dealt[dealt.idxmax()] -= 1
    return {str(label): int(n) for label, n in dealt.items()}
