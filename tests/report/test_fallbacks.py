"""Masks by outcome and class: an empty one shows the whole image, which must not tell the class."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.report import results_text
from pipeline.report.fallbacks import outcomes_by_class, uneven_fallbacks
from pipeline.report.results import dataset_markdown
from pipeline.report.sections import mask_quality
from pipeline.report.sections.mask_quality import mask_table


@pytest.fixture
def masks(found) -> pd.DataFrame:
    """The index of the masks; those of all beta images are empty, and the first alpha's."""
    table = mask_table(found).copy()
    table["status"] = "ok"
    table.loc[table["label"] == "beta", "status"] = "empty"
    table.loc[table.index[table["label"] == "alpha"][:1], "status"] = "full"
    return table


def test_outcomes_are_counted_by_class(masks):
    table = outcomes_by_class(masks)
    assert table.headers == ["class", "images", "ok", "empty", "full", "failed"]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert shown["alpha"] == ["12", "11 (91.7 %)", "0 (0.0 %)", "1 (8.3 %)", "0 (0.0 %)"]
    assert shown["beta"] == ["12", "0 (0.0 %)", "12 (100.0 %)", "0 (0.0 %)", "0 (0.0 %)"]
    assert shown["gamma"][1] == "12 (100.0 %)"


def test_empty_masks_that_tell_the_class_are_said_with_what_they_are_worth(found, masks):
    said = uneven_fallbacks(found, masks)
    assert "12 of 13 empty or full masks are of beta (100.0 % of its images, 4.2 % of" in said
    rows = found.predictions(
        protocol="grouped", head="linear-probe", view="masked", fraction=1.0
    ).assign(right=lambda t: t["y_true"] == t["y_pred"])
    kept = rows[rows["image_id"].map(masks["status"]) == "ok"]
    with_all, without = (100 * t.groupby("seed")["right"].mean().mean() for t in (rows, kept))
    assert with_all != pytest.approx(without)
    assert "in grouped cross-validation with all labels" in said
    points, shown = re.search(
        r"reaches ([\d.]+) points .* masked images \((.*?) %\)", said
    ).groups()
    assert shown == f"{without:.1f} instead of {with_all:.1f}"
    assert float(points) == pytest.approx(abs(round(without, 1) - round(with_all, 1)))


def test_alike_classes_and_a_handful_of_empty_masks_are_passed_over(found, masks):
    assert uneven_fallbacks(found, None) is None
    alike = masks.assign(status=np.resize(["ok", "empty"], len(masks)))
    assert uneven_fallbacks(found, alike) is None
    few = masks.assign(status="ok")
    few.loc[few.index[few["label"] == "beta"][:9], "status"] = "empty"
    assert uneven_fallbacks(found, few) is None
    assert uneven_fallbacks(found, masks.assign(status="empty")) is None


def test_the_table_and_the_sentence_stand_on_the_result_page_and_in_the_report(
    found, masks, _one, monkeypatch
):
    for module in ("results", "results_text", "sections.mask_quality"):
        monkeypatch.setattr(f"pipeline.report.{module}.mask_table", lambda found: masks)
    said = uneven_fallbacks(found, masks)
    assert said in results_text.content(found)
    page = dataset_markdown(found, _one[0])
    assert said in page and outcomes_by_class(masks).markdown() in page
    monkeypatch.setattr(mask_quality, "_worst", lambda quality, album: None)
    blocks = mask_quality.section(found, None, _one[0]).blocks
    assert any(getattr(b, "text", "") == said for b in blocks)
    assert any(getattr(b, "caption", "") == "Masks by outcome and class" for b in blocks)
