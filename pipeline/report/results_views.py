"""Whether the other views of the masks (crop, mask alone) differ from whole and masked images."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report import results_phrases as phrases
from pipeline.report import select
from pipeline.report.inputs import DatasetInputs

PROBE = select.BASELINE[0]
OTHERS = {"crop": "cropping to the mask", "binary": "the mask alone, without what is inside it,"}


def over_all(done: Sequence[DatasetInputs]) -> str | None:
    """Count the verdicts of the other views against whole images, in a line; None without any."""
    kinds = {view: phrases.verdicts(done, (PROBE, view)) for view in OTHERS}
    said = [f"{words} is {phrases.counted(kinds[v])}" for v, words in OTHERS.items() if kinds[v]]
    if not said:
        return None
    claim = "The other views of the masks do not help"
    if any("helps" in found for found in kinds.values()):
        claim = "Another view of the masks helps in some cases"
    return f"**{claim}.** Linear probe, against whole images: {'; '.join(said)}."


def views(found: DatasetInputs) -> str | None:
    """Say how the other views do against whole images, and the crop against masked ones."""
    said = []
    for view, words in OTHERS.items():
        measured = phrases.differences(found, (PROBE, view), select.BASELINE)
        if not measured:
            continue
        said.append(f"Against whole images {words} {phrases.each(measured)}.")
        beside = phrases.differences(found, (PROBE, view), select.MASKED_PROBE)
        if beside and view == "crop":  # both show what is inside the mask
            said.append(f"Against masked ones it {phrases.each(beside)}.")
    return " ".join(said) or None
