"""Outlines and plots: at the right place, distinct, the same bytes."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from pipeline.config import NamedRun
from pipeline.images.overlay import GROUND_TRUTH, PREDICTED, draw_outlines
from pipeline.report import plots
from pipeline.report.data import GROUPED
from pipeline.report.pictures import spread

# Simulations of Machado et al. (2009), severity 1, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


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


def seen(colour, sight: str) -> np.ndarray:
    """The sRGB colour that gives normal sight the same impression."""
    if isinstance(colour, str):
        colour = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    rgb = np.array(colour) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    mixed = np.clip(SIGHTS[sight] @ linear, 0, 1)
    return np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)


@pytest.mark.promise("Colours of plots and outlines differ for colour-blind readers.")
@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_differ_in_every_sight(sight):
    def distance(a, b) -> float:
        """CIEDE2000: about 2 can just be seen, 10 are plainly different colours."""
        return float(deltaE_ciede2000(*(rgb2lab(seen(c, sight)) for c in (a, b))))

    pairs = itertools.combinations(plots.COLOURS, 2)
    assert {pair: d for pair in pairs if (d := distance(*pair)) < 10} == {}
    assert distance(PREDICTED, GROUND_TRUTH) > 20


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


def test_a_run_looks_the_same_in_every_plot_and_none_like_another(data):
    runs = [NamedRun(name=f"{i}", learner=f"l{i}", view="whole") for i in range(12)]
    study = data.params.study.model_copy(update={"runs": tuple(runs)})
    looks = plots.styles(data.params.model_copy(update={"study": study}))
    assert len({(looks[r.key]["color"], str(looks[r.key]["ls"])) for r in runs}) == 12
    fewer = study.model_copy(update={"runs": tuple(runs[:2])})
    assert (
        plots.styles(data.params.model_copy(update={"study": fewer}))[runs[1].key]
        == (looks[runs[1].key])
    )


def test_a_gallery_holds_the_worst_half_and_evenly_spaced_others():
    assert spread("abc", 6) == list("abc")
    ids = [str(i) for i in range(20)]
    assert spread(ids, 6) == ["0", "1", "2", "3", "11", "19"]
