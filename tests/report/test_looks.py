"""Nothing is cut off and everything is legible: on a desk, on a phone, on paper."""

from __future__ import annotations

import pytest
from make_inputs import project

from pipeline.report.build import build_report

# The printed width of A4 between the margins of the style sheet (12 mm), in CSS pixels.
PAPER = round((210 - 2 * 12) / 25.4 * 96)

# Words whose colour is too near to that of what lies behind them (WCAG 2: 4.5 to 1).
FAINT = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = (t) => { const n = t.match(/[\\d.]+/g).map(Number); return [...n, 1].slice(0, 4); };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce(
      (under, top) => under.map((u, i) => top[i] * top[3] + u * (1 - top[3])), [255, 255, 255]);
  };
  const found = new Set();
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = words.nextNode(); n; n = words.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !e.checkVisibility() || e.closest('script, style')) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest('svg') ? style.fill : style.color), paper = behind(e);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => x - y);
    if ((b + 0.05) / (a + 0.05) < 4.5) found.add(`${n.data.trim()} ${ink} on ${paper}`);
  }
  return [...found];
}"""

# What reaches over the right edge of the page, unless a box of its own scrolls it.
CUT = """(scrolls) => [...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !(scrolls && e.closest('.scroll, pre')))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)"""

# Words of a plot that leave its frame or lie on each other.
CROWDED = """() => [...document.querySelectorAll('figure svg')].flatMap((svg) => {
  const frame = svg.getBoundingClientRect(), said = [...svg.querySelectorAll('text')];
  const boxes = said.map((t) => t.getBoundingClientRect());
  const out = said.filter((_, i) => boxes[i].left < frame.left - 1 || boxes[i].top < frame.top - 1
    || boxes[i].right > frame.right + 1 || boxes[i].bottom > frame.bottom + 1);
  const over = said.filter((_, i) => boxes.some((b, j) => j < i
    && Math.min(b.right, boxes[i].right) - Math.max(b.left, boxes[i].left) > 1
    && Math.min(b.bottom, boxes[i].bottom) - Math.max(b.top, boxes[i].top) > 4));
  return [...out, ...over].map((t) => `${svg.getAttribute('aria-label')}: ${t.textContent}`);
})"""

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OPEN = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A report with as many columns as a real one: five shares, five seeds, quoted figures."""
    params, paths = project(
        tmp_path_factory.mktemp("wide"),
        "lung",  # the paper has a set of this name, which is another one: both are said
        classes=("glioma", "meningioma", "Viral Pneumonia", "healthy tissue"),
        fractions=(0.05, 0.1, 0.2, 0.5, 1.0),
        seeds=5,
        synthetic="0",
    )
    return build_report(params, paths)


@pytest.fixture
def wide_page(new_page, wide):
    """It, at desktop width, with everything unfolded."""
    page = new_page()
    page.goto(wide.as_uri())
    page.evaluate(OPEN)
    return page


def to_print(page) -> None:
    """Lay the page out as for A4."""
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")


@pytest.mark.parametrize("media", ("screen", "print"))
@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_every_word_stands_out_from_what_is_behind_it(wide_page, media, scheme):
    page = wide_page
    page.emulate_media(media=media, color_scheme=scheme)
    assert page.evaluate(FAINT) == []


def test_nothing_is_cut_off_at_the_desk(wide_page):
    assert wide_page.evaluate(CUT, True) == []
    assert wide_page.evaluate(SIDEWAYS) == 0


def test_nothing_is_cut_off_on_paper(wide_page):
    to_print(wide_page)
    assert wide_page.evaluate(CUT, False) == []  # paper does not scroll


def test_a_phone_shows_everything_within_its_width_and_the_opened_images_too(wide_page):
    page = wide_page
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(CUT, True) == []
    assert page.evaluate(SIDEWAYS) == 0
    page.locator("button[data-dialog]").first.click()
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    inside = page.locator("dialog[open] img").evaluate_all(
        "all => all.map((i) => i.getBoundingClientRect().right)"
    )
    assert inside and max(inside) <= 390


def test_the_words_of_a_plot_stay_in_its_frame_and_off_each_other(wide_page):
    assert wide_page.evaluate(CROWDED) == []


def test_the_plots_are_legible_on_a_phone(wide_page):
    wide_page.set_viewport_size({"width": 390, "height": 844})
    sizes = wide_page.locator("figure svg text").evaluate_all(
        "all => all.map((t) => t.getBoundingClientRect().height)"
    )
    assert min(s for s in sizes if s) > 9


def test_four_datasets_with_full_galleries_stay_under_15_mb(tmp_path):
    params, paths = project(tmp_path, "a", per_class=40, size=(220, 180), noise=40)
    section = params.report.model_copy(update={"gallery": 24, "heatmaps": 4})
    page = build_report(params.model_copy(update={"report": section}), paths)
    assert 4 * page.stat().st_size < 15e6  # the four are alike, and share styles and scripts
    assert 4 * page.read_text(encoding="utf-8").count("data:image/") > 300
