"""Images of which the right answer is known, through the whole pipeline by its commands.

The class is the texture inside the lesion and the background is drawn at random from both textures,
or the other way round. Masked images must win on the first set and lose on the second.
"""

from __future__ import annotations

import pandas as pd
import pytest

from tests.site import Site

WHERE = ("lesion", "background")
SETTINGS = {
    "segment.prompt": "salient",  # SAM2 without a prompt finds these lesions well
    "encode.views": "[whole, masked]",
    "splits.fractions": "[0.1]",  # few labels: with many, the whole image holds the answer too
    "train.views": "{official: [whole, masked]}",
    "train.seeds": "[0, 1, 2]",
    "evaluate.bootstrap": "500",
}
TRAINED = ("linear-probe", "medfocus", "medfocus-probe")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Difference in accuracy of masked and whole images on both sets, by learner."""
    site = Site.create(tmp_path_factory.mktemp("known") / "site")
    text = (site.root / "params.yaml").read_text()
    (site.root / "params.yaml").write_text(text.replace("epochs: 5", "epochs: 30"))
    settings = [part for k, v in SETTINGS.items() for part in ("--set", f"{k}={v}")]
    found = {}
    for where in WHERE:
        made = site.run("pipeline", "data", "sample", "--known-answer", where, "--images", "80")
        assert f"known-{where}.csv" in made
        on = ("-d", f"known-{where}", *settings)
        for command in ("segment", "encode"):
            site.run("pipeline", command, *on)
        for command in ("train", "evaluate"):
            site.run("pipeline", command, *on, "--jobs", "1")
        table = pd.read_csv(site.root / f"cache/known-{where}/plots/comparisons.csv")
        table = table[table["metric"] == "accuracy"].query("learner_a == learner_b")
        whole_first = table["view_a"] == "whole"
        turned = -table.loc[whole_first, ["difference", "hi", "lo"]].to_numpy()
        table.loc[whole_first, ["difference", "lo", "hi"]] = turned
        found[where] = table.set_index("learner_a")
    return found


@pytest.mark.promise(
    "Where the class is only in the lesion masked images win; where it is only in the background "
    "whole images win."
)
@pytest.mark.parametrize("learner", TRAINED)
def test_masked_wins_where_the_class_is_in_the_lesion_and_loses_where_it_is_not(
    compared: dict[str, pd.DataFrame], learner: str
) -> None:
    lesion, background = (compared[where].loc[learner] for where in WHERE)
    assert lesion["difference"] > 0.1 and lesion["lo"] > 0
    assert background["difference"] < -0.1 and background["hi"] < 0
