"""The page that `dvc repro` made of phantoms, in Chromium: nothing of it is made up."""

from __future__ import annotations

import pandas as pd
import pytest
from playwright.sync_api import Page

from pipeline.paths import Paths
from pipeline.report.select import BASELINE, METHOD, slug

from .conftest import Project

FOCUSABLE = "button, summary, a[href], input, select, [tabindex='0']"
VISIBLE = f"""() => [...document.querySelectorAll("{FOCUSABLE}")]
  .filter((e) => e.checkVisibility())"""


@pytest.fixture
def page(built_project: Project, new_page) -> Page:
    """The page, with what the browser says and asks for on the way kept as `page.heard`."""
    opened = new_page()
    opened.heard = []
    opened.on("console", lambda m: opened.heard.append(f"console {m.type}: {m.text}"))
    opened.on("pageerror", lambda e: opened.heard.append(f"error: {e}"))
    opened.on("requestfailed", lambda r: opened.heard.append(f"failed: {r.url[:80]}"))
    opened.on("request", lambda r: opened.heard.append(f"request: {r.url[:80]}"))
    opened.goto((built_project.root / "report" / "index.html").as_uri())
    return opened


def test_using_the_built_page_asks_for_nothing_and_logs_nothing(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    broken = page.evaluate(
        """async () => { const out = [];
        for (const i of document.images) { i.loading = 'eager'; await i.decode().catch(() => 0);
          if (!i.naturalWidth || !i.alt) out.push(i.outerHTML.slice(0, 80)); }
        return out; }"""
    )
    assert broken == [] and page.locator("img").count() > 20
    for button in page.locator("button.sort").all()[:5]:
        button.click()
    for link in page.locator("nav a").all():
        link.click()
    asked = [line for line in page.heard if not line.startswith("request: data:")]
    assert len(asked) == 1 and asked[0].startswith("request: file:")  # the page itself


def test_the_tab_key_alone_reaches_every_control_that_is_seen(page: Page) -> None:
    page.evaluate(f"window.unreached = new Set(({VISIBLE})())")
    seen = page.evaluate("window.unreached.size")
    for _ in range(seen + 1):
        page.keyboard.press("Tab")
        page.evaluate("window.unreached.delete(document.activeElement)")
    left = page.evaluate("[...window.unreached].map((e) => e.outerHTML.slice(0, 120))")
    assert seen > 50 and left == []


def test_every_confusion_cell_opens_images_of_that_cell_by_keyboard(
    page: Page, built_project: Project
) -> None:
    opened = 0
    for dataset in ("breast", "covid"):
        paths = Paths(built_project.root)
        table = pd.read_parquet(paths.predictions(dataset))
        table = table[(table["protocol"] == "official") & (table["fraction"] > 0.99)]
        for run in (METHOD, BASELINE):
            mine = table[(table["head"] == run[0]) & (table["view"] == run[1])]
            cells = mine.astype({"y_true": str, "y_pred": str, "image_id": str})
            for (true, called), cell in cells.groupby(["y_true", "y_pred"]):
                name = slug("cell", dataset, *run, true, called)
                button = page.locator(f"button[data-dialog='{name}']")
                assert float(button.inner_text()) == len(cell) / mine["seed"].nunique()
                button.focus()
                page.keyboard.press("Enter")
                pictures = page.locator("dialog[open] img")
                loaded = pictures.evaluate_all(
                    "all => Promise.all(all.map(async (i) => { i.loading = 'eager';"
                    " await i.decode(); return i.naturalWidth; }))"
                )
                shown = {
                    alt.rsplit(",", 1)[0]
                    for alt in pictures.evaluate_all("a => a.map((i) => i.alt)")
                }
                assert shown == set(cell["image_id"])  # few enough to be shown all
                assert len(loaded) == len(shown) and min(loaded) > 0
                page.keyboard.press("Escape")
                assert page.locator("dialog[open]").count() == 0
                assert button.evaluate("b => b === document.activeElement")
                opened += 1
    assert opened == page.locator("button[data-dialog]").count() > 8
