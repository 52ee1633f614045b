"""The colours can be told apart by colour-blind readers, and everything reads on white."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from pipeline.report import figures, overlay
from pipeline.report.svg import STYLES

# Simulations of Machado et al. (2009), severity 1, on linear RGB.
SIMULATIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
CSS = Path(figures.__file__).parent / "templates" / "style.css"


def rgb(colour: str | tuple[int, int, int]) -> np.ndarray:
    if isinstance(colour, str):
        colour = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return np.array(colour) / 255


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def seen(colour, sight: str) -> np.ndarray:
    """The sRGB colour that normal sight would have to see to share the impression."""
    mixed = np.clip(SIMULATIONS[sight] @ linear(rgb(colour)), 0, 1)
    return np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)


def distance(a, b, sight: str) -> float:
    """CIEDE2000; about 2 can just be seen, 10 and more are plainly different colours."""
    return float(deltaE_ciede2000(*(rgb2lab(seen(c, sight)) for c in (a, b))))


def contrast(a, b) -> float:
    """The ratio of WCAG 2, from 1 to 21."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(rgb(c))) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("sight", SIMULATIONS)
def test_lines_of_a_plot_are_different_colours_in_every_sight(sight):
    colours = [style.colour for style in STYLES]
    colours.append(figures.QUOTED_STYLES["CLIP"].colour)
    near = {
        pair: distance(*pair, sight)
        for pair in itertools.combinations(colours, 2)
        if distance(*pair, sight) < 10
    }
    assert not near


@pytest.mark.parametrize("sight", SIMULATIONS)
def test_the_two_outlines_on_an_image_are_different_colours_in_every_sight(sight):
    assert distance(overlay.PREDICTED, overlay.GROUND_TRUTH, sight) > 20


@pytest.mark.parametrize("sight", SIMULATIONS)
def test_right_and_wrong_cells_of_a_confusion_matrix_are_different_colours(sight):
    shades = [
        re.search(rf"td\.{kind} \{{ background: rgba\((.*?), calc", CSS.read_text())
        for kind in ("right", "wrong")
    ]
    right, wrong = (tuple(map(int, shade.group(1).split(","))) for shade in shades)
    assert distance(right, wrong, sight) > 20


def test_lines_are_seen_on_white_and_words_are_read_on_it():
    assert all(contrast(style.colour, "#ffffff") > 2 for style in STYLES)
    css = CSS.read_text()
    inks = dict(re.findall(r"--(ink|soft|accent|bad|good): (#[0-9a-f]{6})", css))
    assert set(inks) == {"ink", "soft", "accent", "bad", "good"}
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in inks.values())


def test_good_and_bad_figures_are_not_told_by_colour_alone():
    css = CSS.read_text()
    assert re.search(r"td\.best b::after \{ content: .+ \}", css)
    assert re.search(r"td\.best b \{[^}]*font-weight: 700", css)
