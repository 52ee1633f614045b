"""A section that shows one split says which, and how many of its test images are copies."""

from __future__ import annotations

import re

import pytest

from pipeline.report import answers
from pipeline.report.build import dataset_page
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.sections import DATASET_SECTIONS


@pytest.mark.parametrize("drawn", [False, True])
def test_a_section_that_shows_predictions_of_one_split_names_it_and_its_copies(
    _one, found, monkeypatch, drawn
):
    params, _ = _one
    if drawn:
        found.manifest = found.manifest.assign(split="")
    read = DatasetInputs.predictions
    asked: list[str] = []

    def spy(self, **where):
        asked.append(where.get("protocol", "all"))
        return read(self, **where)

    monkeypatch.setattr(DatasetInputs, "predictions", spy)
    shown = {}
    for make in DATASET_SECTIONS:
        asked.clear()
        made = make(found, Album(found, 32), params)
        if set(asked) == {"official"}:
            shown[made.key] = made
    # The text's heat maps take their images from predictions and show none.
    assert set(shown) - {"heatmaps"} == {
        "flips",
        "gallery",
        "confusion",
        "calibration",
    }
    page = dataset_page(found, params)
    split = "drawn here" if drawn else "as published"
    named = {made.key: made.split for made in page.sections if made.split}
    assert named == dict.fromkeys(set(shown) - {"heatmaps"}, split)
    assert bool(page.copies) is not drawn


def test_the_page_says_the_split_and_its_copies_under_the_heading(found, html):
    said = answers.leaking(found)
    assert "have a copy in train" in said
    for title in ("Confusions", "Calibration", "Where the mask helped, where it hurt"):
        pattern = (
            rf"</span> {title} <span class=.split.>\(as published\)</span></h3>(.*?)</section>"
        )
        (after,) = re.findall(pattern, html, flags=re.DOTALL)
        assert said in after[:600]
