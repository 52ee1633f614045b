"""Outlines and plots: at the right place, distinct, the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.images.overlay import PREDICTED, draw_outlines
from pipeline.report import plots
from pipeline.report.data import GROUPED


def orange(picture) -> np.ndarray:
    return np.abs(np.asarray(picture, int) - PREDICTED).sum(axis=2) < 120


@pytest.mark.promise("An outline lies on the border of its mask within a pixel.")
@pytest.mark.parametrize("shape", [(60, 100), (211, 97)])
def test_an_outline_lies_on_the_border_of_the_mask(shape):
    mask = np.zeros(shape, bool)
    mask[20:41, 30:51] = True
    picture = draw_outlines(np.full((*shape, 3), 128, np.uint8), mask, size=max(shape))
    y, x = np.nonzero(orange(picture))
    assert picture.size == shape[::-1]
    assert abs(y.min() - 20) <= 1.5 and abs(y.max() - 40) <= 1.5
    assert abs(x.min() - 30) <= 1.5 and abs(x.max() - 50) <= 1.5
    assert not orange(picture)[24:37, 34:47].any()


def test_a_mask_of_another_size_is_refused_and_an_empty_one_draws_nothing():
    image = np.full((40, 40, 3), 128, np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        draw_outlines(image, np.ones((40, 41), bool))
    assert not orange(draw_outlines(image, np.zeros((40, 40), bool), size=40)).any()
    assert orange(draw_outlines(image, np.ones((40, 40), bool), size=40)).any()


@pytest.mark.promise("Text is dark enough on its background (WCAG 2: 4.5 to 1).")
def test_text_of_the_page_contrasts_with_its_background():
    style = (Path(plots.__file__).parent / "templates/style.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): #(\w+)", style))

    def light(name: str) -> float:
        text = colours[name] if len(colours[name]) == 6 else "".join(2 * c for c in colours[name])
        rgb = np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    pairs = {
        (ink, paper) for ink in ("ink", "soft", "accent", "good", "bad") for paper in ("paper",)
    }
    pairs |= {("good", "good-tint"), ("bad", "bad-tint"), ("ink", "tint"), ("soft", "quoted")}
    assert [p for p in pairs if light(p[1]) / light(p[0]) < 4.5] == []


@pytest.mark.promise("Plots are the same bytes every time, and their text stays text.")
def test_a_plot_is_the_same_bytes_and_its_text_is_text(data):
    data.name = "one <&>"
    svg, again = (str(plots.curve("x", data, GROUPED, data.shown(GROUPED))) for _ in range(2))
    assert svg == again
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert {*data.study.values(), f"({data.labels_used(GROUPED)[1.0]})"} <= texts
    assert "one &lt;&amp;&gt;" in svg and "DejaVu" not in svg
    assert not re.search(r"\d{4}-\d\d-\d\d", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used and used <= set(re.findall(r' id="([^"]+)"', svg))
