"""Images of which the right answer is known, through the whole pipeline by its commands.

The class is the texture inside the lesion and the background is drawn at random from both textures,
or the other way round. Masked images must win on the first set and lose on the second.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.site import Site

SETTINGS = {
    "segment.prompt": "salient",  # SAM2 without a prompt finds these lesions well
    "encode.views": "[whole, masked]",
    "splits.fractions": "[0.1]",  # few labels: with many, the whole image holds the answer too
    "train.views": "{official: [whole, masked]}",
    "train.seeds": "[0, 1, 2]",
    "evaluate.bootstrap": "500",
}
TRAINED = ("linear-probe", "medfocus", "medfocus-probe")


@pytest.mark.promise(
    "Where the class is only in the lesion masked images win; where it is only in the background "
    "whole images win."
)
@pytest.mark.parametrize("where", ["lesion", "background"])
def test_masked_wins_where_the_class_is_in_the_lesion_and_loses_where_it_is_not(
    drawn: Site, where: str, tmp_path: Path
) -> None:
    site = drawn.copy(tmp_path / "site")
    site.params(learners__medfocus__epochs=30, **{"learners__medfocus-probe__epochs": 30})
    dataset, settings = f"known-{where}", [f"{k}={v}" for k, v in SETTINGS.items()]
    site.run("pipeline", "data", "sample", "--known-answer", where, "--images", "80")
    for command in ("segment", "encode", "train --jobs 1", "evaluate --jobs 1"):
        on = ("-d", dataset, *(part for setting in settings for part in ("--set", setting)))
        site.run("pipeline", *command.split(), *on)
    table = pd.read_csv(site.root / f"cache/{dataset}/plots/comparisons.csv")
    table = table.query("metric == 'accuracy' and learner_a == learner_b").set_index("learner_a")
    for learner in TRAINED:
        row = table.loc[learner]
        masked_first = 1 if row["view_a"] == "masked" else -1
        # Masked minus whole, or whole minus masked where the answer is in the background.
        sign = masked_first * (1 if where == "lesion" else -1)
        assert sign * row["difference"] > 0.1
        assert min(sign * row["lo"], sign * row["hi"]) > 0, learner
