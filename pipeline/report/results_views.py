"""Whether the other views of the masks (crop, mask alone) differ from whole and masked images."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report import results_phrases as phrases
from pipeline.report import select
from pipeline.report.answers import comparisons_of
from pipeline.report.inputs import DatasetInputs
from pipeline.report.tables import many

PROBE = select.BASELINE[0]
OTHERS = {"crop": "cropping to the mask", "binary": "the mask alone, without what is inside it,"}


def in_short(done: Sequence[DatasetInputs]) -> str | None:
    """Count the verdicts of the other views against whole images, in a line; None without any."""
    said, helping = [], []
    for view, words in OTHERS.items():
        kinds = phrases.verdicts(done, (PROBE, view))
        if not kinds:
            continue
        better, worse, same = (kinds.count(k) for k in phrases.VERBS)
        helping += [view] * bool(better)
        said.append(
            f"{words} is better beyond chance in {better} of {many(len(kinds), 'comparison')}, "
            f"worse in {worse}, not told apart in {same}"
        )
    if not said:
        return None
    claim = "Another view of the masks helps in some cases"
    if not helping:
        claim = "The other views of the masks do not help"
    return f"**{claim}.** Linear probe, against whole images: {'; '.join(said)}."


def views(found: DatasetInputs) -> str | None:
    """Say how the other views do against whole images, and the crop against masked ones."""
    said = []
    for view, words in OTHERS.items():
        for block, where in phrases.where(found):
            d = comparisons_of(found, (PROBE, view), select.BASELINE, *block)
            if not d:
                continue
            text = f"Against whole images {words} {phrases.verdict(d)}: {where} {phrases.ends(d)}"
            beside = comparisons_of(found, (PROBE, view), select.MASKED_PROBE, *block)
            if beside and view == "crop":  # both show what is inside the mask
                text += f"; against masked ones it {phrases.verdict(beside)}: "
                text += phrases.ends(beside)
            said.append(f"{text}.")
            break
    return " ".join(said) or None
