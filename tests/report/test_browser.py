"""The page in Chromium: at a desk, on a phone, on paper, by keyboard, without a network."""

from __future__ import annotations

import re

import pytest

PAPER = round((210 - 2 * 12) / 25.4 * 96)
"""Printed width of A4 between the margins of the style sheet, CSS pixels."""
FOCUSABLE = "button, summary, a[href], input, select, [tabindex='0']"
OPEN = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

# What reaches over the right edge of the page, unless a box of its own scrolls it.
CUT = """(scrolls) => [...document.querySelectorAll('main *')]
  .filter((e) => e.checkVisibility() && !e.closest('legend'))
  .filter((e) => !(scrolls && e.closest('.scroll, pre')))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`)"""


@pytest.fixture
def page(open_page, wide):
    return open_page(wide.as_uri())


@pytest.mark.promise("The page needs no network and logs no error.")
@pytest.mark.promise(
    "A page of four datasets is at most 25,000 pixels tall at 1,200 pixels and below 15 MB."
)
def test_the_page_is_short_and_asks_for_nothing_and_logs_nothing(page, wide):
    assert 4 * page.evaluate("document.documentElement.scrollHeight") < 25_000
    assert 4 * wide.stat().st_size < 15e6
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
    assert page.locator("#page-made > .body").is_visible()  # a link to a fold opens it
    asked = [line for line in page.heard if not line.startswith("request: data:")]
    assert len(asked) == 1 and asked[0].startswith("request: file:")  # the page itself
    text = re.sub(r"data:[^\"')]+", "", wide.read_text("utf-8"))
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text))
    assert addresses <= {"http://www.w3.org"}  # the name space of SVG


@pytest.mark.promise("Nothing is cut off at a desk, on a phone or on paper.")
def test_nothing_is_cut_off_at_a_desk_on_a_phone_or_on_paper(page):
    page.evaluate(OPEN)
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
