"""Images of which the right answer is known, through the whole pipeline by its commands.

The class is the texture inside the lesion and the background is drawn at random from both textures,
or the other way round. Masked images, and whole and masked ones side by side, must win on the first
set; on the second masked images must lose.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.site import Site

SETTINGS = {
    "segment.prompt": "salient",  # SAM2 without a prompt finds these lesions well
    "encode.views": "[whole, masked, random]",
    "splits.fractions": "[0.1]",  # few labels: with many, the whole image holds the answer too
    "train.views": "{official: [whole, masked]}",
    "train.seeds": "[0, 1, 2]",
    "evaluate.bootstrap": "500",
}
TRAINED = ("linear-probe", "medfocus", "medfocus-probe")
# A joint view has twice the features, of which half tell nothing: a few more labels.
JOINT = {
    "views": {"official": ["whole", "masked", "whole+masked", "whole+random"]},
    "fractions": [0.1, 0.2],
}


@pytest.mark.promise(
    "Where the class is only in the lesion masked images win, alone and beside the whole image; "
    "where it is only in the background whole images win."
)
@pytest.mark.parametrize("where", ["lesion", "background"])
def test_masked_wins_where_the_class_is_in_the_lesion_and_loses_where_it_is_not(
    drawn: Site, where: str, tmp_path: Path
) -> None:
    site = drawn.copy(tmp_path / "site")
    trained = TRAINED if where == "lesion" else TRAINED[:1]
    own = yaml.safe_load((site.root / "params.yaml").read_text())["learners"]
    more = {name: {"epochs": 30} for name in TRAINED[1:]} | {"linear-probe": JOINT}
    site.params(learners={name: own[name] | more[name] for name in trained})
    dataset, settings = f"known-{where}", [f"{k}={v}" for k, v in SETTINGS.items()]
    site.run("pipeline", "data", "sample", "--known-answer", where, "--images", "80")
    on = ("-d", dataset, *(part for setting in settings for part in ("--set", setting)))
    for command in ("segment", "encode", "train --jobs 1", "evaluate --jobs 1"):
        site.run("pipeline", *command.split(), *on)
    table = pd.read_csv(site.root / f"cache/{dataset}/plots/comparisons.csv")
    table = table.query("metric == 'accuracy' and learner_a == learner_b").set_index("learner_a")

    def gain(learner: str, view: str, over: str, fraction: float) -> list[float]:
        rows = table.loc[[learner]].query("fraction == @fraction")
        (row,) = rows[rows[["view_a", "view_b"]].isin([view, over]).all(axis=1)].itertuples()
        sign = 1 if row.view_a == view else -1
        return [sign * row.difference, *sorted([sign * row.lo, sign * row.hi])]

    better, worse = ("masked", "whole") if where == "lesion" else ("whole", "masked")
    for learner in trained:
        difference, lo, _ = gain(learner, better, worse, 0.1)
        assert difference > 0.1 and lo > 0, learner
    # The joint view has what either view shows; a random region in the mask's place has it not.
    for over in ("whole", "whole+random") if where == "lesion" else ("masked",):
        assert gain("linear-probe", "whole+masked", over, 0.2)[0] > 0.05, over

    if where == "lesion":  # a new image is encoded in the joined views and joined as they were
        runs = site.root / f"cache/{dataset}/runs/linear-probe"
        stored = pd.read_parquet(runs / "predictions.parquet").query("view == 'whole+masked'")
        stored = stored[stored["fraction"] > 0.15]  # the most labels
        mine = stored[stored["image_id"] == stored["image_id"].iloc[0]]
        path = next(r["path"] for r in site.rows(dataset) if r["image_id"] in set(mine["image_id"]))
        asked = ("--learner", "linear-probe", "--view", "whole+masked", "--json")
        out = site.run("pipeline", "predict", *on, *asked, f"data/{dataset}/{path}")
        (found,) = json.loads(out[out.index("{\n") :])["images"]
        shares = {f"p:{name}": share for name, share in found["probabilities"].items()}
        assert shares == pytest.approx(mine.filter(like="p:").mean().to_dict(), abs=1e-3)
