"""The page in Chromium: at a desk, on a phone, on paper, by keyboard, without a network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.report.build import build_report

PAPER = round((210 - 2 * 12) / 25.4 * 96)
"""Printed width of A4 between the margins of the style sheet, CSS pixels."""
FOCUSABLE = "button, summary, a[href], input, select, [tabindex='0']"
OPEN = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

# Text whose colour is too close to that of what is behind it (WCAG 2: 4.5 to 1).
FAINT = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const parse = (t) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = t; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
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
    if (!n.data.trim() || !e.checkVisibility() || e.closest('script, style, legend')) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.closest('svg') ? style.fill : style.color), paper = behind(e);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => x - y);
    if ((b + 0.05) / (a + 0.05) < 4.5) found.add(`${n.data.trim()} ${ink} on ${paper}`);
  }
  return [...found];
}"""
# What reaches over the right edge of the page, unless a box of its own scrolls it.
CUT = """(scrolls) => [...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !e.closest('legend'))
  .filter((e) => !(scrolls && e.closest('.scroll, pre')))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)"""
# Text of a plot that leaves its frame or overlaps other text.
CROWDED = """() => [...document.querySelectorAll('svg')].flatMap((svg) => {
  if (!svg.checkVisibility()) return [];
  const frame = svg.getBoundingClientRect(), said = [...svg.querySelectorAll('text')];
  const boxes = said.map((t) => t.getBoundingClientRect());
  const out = said.filter((_, i) => boxes[i].left < frame.left - 1 || boxes[i].top < frame.top - 1
    || boxes[i].right > frame.right + 1 || boxes[i].bottom > frame.bottom + 1);
  const over = said.filter((_, i) => boxes.some((b, j) => j < i
    && Math.min(b.right, boxes[i].right) - Math.max(b.left, boxes[i].left) > 1
    && Math.min(b.bottom, boxes[i].bottom) - Math.max(b.top, boxes[i].top) > 4));
  return [...out, ...over].map((t) => `${svg.getAttribute('aria-label')}: ${t.textContent}`);
})"""


@pytest.fixture(scope="module")
def wide(real, tmp_path_factory) -> Path:
    """A page with as many columns as a real one: five shares, four classes, quoted figures."""
    return build_report(*real)


@pytest.fixture
def page(new_page, wide):
    """The page at 1,200 pixels, with what the browser says and asks for kept as `page.heard`."""
    opened = new_page(1200, 900)
    opened.heard = []
    opened.on("console", lambda m: opened.heard.append(f"console {m.type}: {m.text}"))
    opened.on("pageerror", lambda e: opened.heard.append(f"error: {e}"))
    opened.on("request", lambda r: opened.heard.append(f"request: {r.url[:80]}"))
    opened.goto(wide.as_uri())
    return opened


@pytest.mark.promise("The page needs no network and logs no error.")
def test_the_page_asks_for_nothing_and_logs_nothing(page, wide):
    page.evaluate(OPEN)
    broken = page.evaluate(
        """async () => { const out = [];
        for (const i of document.images) { await i.decode().catch(() => 0);
          if (!i.naturalWidth || !i.alt) out.push(i.outerHTML.slice(0, 80)); }
        return out; }"""
    )
    assert broken == [] and page.locator("img").count() > 20
    for link in page.locator("nav a").all():
        link.click()
    asked = [line for line in page.heard if not line.startswith("request: data:")]
    assert len(asked) == 1 and asked[0].startswith("request: file:")  # the page itself
    text = re.sub(r"data:[^\"')]+", "", wide.read_text("utf-8"))
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))
    assert addresses <= {"http://www.w3.org"}  # the name space of SVG


@pytest.mark.promise(
    "A page of four datasets is at most 25,000 pixels tall at 1,200 pixels and below 15 MB."
)
def test_the_page_is_short_and_light(page, wide):
    height = page.evaluate("document.documentElement.scrollHeight")
    assert 4 * height < 25_000 and 4 * wide.stat().st_size < 15e6


@pytest.mark.promise("Nothing is cut off or too faint at a desk, on a phone or on paper.")
def test_everything_is_legible_at_a_desk_on_a_phone_and_on_paper(page):
    page.evaluate(OPEN)
    assert page.evaluate(CROWDED) == []
    assert page.evaluate(FAINT) == []
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate(CUT, True) == []
        assert page.evaluate(SIDEWAYS) == 0
    sizes = page.locator("figure svg text").evaluate_all(
        "all => all.map((t) => t.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) > 8
    page.evaluate(OPEN.replace("true", "false"))
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print")
    hidden = page.locator("details.section .body, .option").evaluate_all(
        "all => all.filter((e) => !e.checkVisibility({ contentVisibilityAuto: true })"
        " || !e.getBoundingClientRect().height).length"
    )
    assert hidden == 0  # folds and alternatives are printed without a script
    assert page.evaluate(CUT, False) == []  # paper does not scroll
    assert page.evaluate(FAINT) == []


@pytest.mark.promise("Every control is reached with the Tab key and works by keyboard.")
def test_the_keyboard_reaches_and_works_every_control(page):
    seen = f"""[...document.querySelectorAll("{FOCUSABLE}")].filter((e) => e.checkVisibility()
      && !(e.type === 'radio' && !e.checked))"""
    page.evaluate(f"window.unreached = new Set({seen})")
    count = page.evaluate("window.unreached.size")
    for _ in range(count + 1):
        page.keyboard.press("Tab")
        page.evaluate("window.unreached.delete(document.activeElement)")
    left = page.evaluate("[...window.unreached].map((e) => e.outerHTML.slice(0, 120))")
    assert count >= 15 and left == []
    choice = page.locator("#set-lung-accuracy fieldset.choice").first
    choice.locator("> input").first.focus()
    assert choice.locator("> .option").first.is_visible()
    page.keyboard.press("ArrowRight")
    assert choice.locator("> .option").nth(1).is_visible()
    assert not choice.locator("> .option").first.is_visible()
    fold = page.locator("#set-lung-errors > summary")
    fold.focus()
    page.keyboard.press("Enter")
    assert page.locator("#set-lung-errors table").first.is_visible()


def test_a_link_to_a_folded_section_opens_it(page, wide):
    page.goto(f"{wide.as_uri()}#set-lung-copies")
    page.reload()
    assert page.locator("#set-lung-copies .body").is_visible()
