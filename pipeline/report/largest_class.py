"""What a program that always names the largest class gets right: no accuracy says much below it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluate.test_sets import POOLED, subsets
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import percent


@dataclass(frozen=True)
class LargestClass:
    """The class that most test images of a split have, and its share of them.

    It is a property of the test part, so it has no interval.
    """

    name: str
    share: float

    def __str__(self) -> str:
        """ "Always answering the largest class (no finding) would be right in 90.4 %." """
        said = f"Always answering the largest class ({self.name}) would be right in"
        return f"{said} {percent(self.share)} %."


def largest_class(found: DatasetInputs, protocol: str, subset: str) -> LargestClass | None:
    """Return the largest class of the test images of a split; None where they are not known.

    In cross-validation the share is the mean over the folds, as accuracy is.
    """
    if found.tested is None:
        return None
    plain = protocol.removesuffix(POOLED)
    table = found.tested[found.tested["protocol"] == plain]
    keep = subsets(found.audit_images, plain)
    if subset not in keep:
        return None
    if keep[subset] is not None:
        table = table[table["image_id"].isin(keep[subset])]
    if table.empty:
        return None
    if plain != protocol:  # every image once
        table = table.drop_duplicates("image_id")
    images = table.drop_duplicates("image_id")["y_true"].value_counts().sort_index()
    name = str(images.idxmax())
    right = (table["y_true"] == name).astype(float)
    seeds = table["seed"] if plain == protocol else table["protocol"]
    return LargestClass(name, float(right.groupby(seeds).mean().mean()))
