"""The review page in Chromium, with real pointer and key events on a real SAM2."""

from __future__ import annotations

import re
import signal

import numpy as np
import pytest
from playwright.sync_api import expect

from pipeline.images import read_mask
from pipeline.review.edits import VARIANT, Edits
from pipeline.segment.quality import overlap
from pipeline.store import open_masks
from tests.project import DATASET

expect.set_options(timeout=120_000)  # test machines may be busy


def ready(page) -> str:
    """Wait until an image is shown; return its id."""
    view = page.locator("#view")
    expect(view).to_have_attribute("data-ready", re.compile(".+"))
    return view.get_attribute("data-ready")


def area(page) -> int:
    expect(page.locator("#view")).not_to_have_attribute("data-busy", "1")
    return int(page.locator("#view").get_attribute("data-area"))


def drag(page, box) -> None:
    """Drag the pointer over a box in pixels of the image, 80 x 64."""
    at = page.locator("#view").bounding_box()
    x0, y0, x1, y1 = [v * at["width"] / 80 for v in box]
    page.mouse.move(at["x"] + x0, at["y"] + y0)
    page.mouse.down()
    page.mouse.move(at["x"] + x1, at["y"] + y1, steps=4)
    page.mouse.up()


@pytest.mark.promise(
    "A mask that was accepted in the browser is on the disk at once: kill -9 loses nothing."
)
def test_a_box_is_drawn_accepted_and_survives_a_kill(open_page, reviewed):
    project, served = reviewed.project, reviewed.serve()
    page = open_page(served.url)
    name = ready(page)
    while (row := project.row(name))["label"] != "dog":  # every dog has a region
        page.keyboard.press("j")
        page.wait_for_function("(n) => !['', n].includes(view.dataset.ready)", arg=name)
        name = ready(page)
    truth = read_mask(project.paths.data(DATASET) / row["mask_path"])
    y, x = truth.nonzero()
    drag(page, (x.min() - 2, y.min() - 2, x.max() + 3, y.max() + 3))
    drawn = area(page)
    assert drawn > 0 and page.locator("#caption").inner_text().count("predicted IoU") == 1
    page.keyboard.press("a")
    page.wait_for_function("(n) => !['', n].includes(view.dataset.ready)", arg=name)
    served.end(signal.SIGKILL)
    edits = Edits(project.paths.reviewed(DATASET))
    assert edits.known[name].state == "accepted" and len(edits.known[name].box) == 4
    kept = edits.mask(name)
    assert np.count_nonzero(kept) == drawn and overlap(kept, truth)[0] > 0.5
    page.keyboard.press("n")
    expect(page.locator("#said")).to_contain_text("the server does not answer")

    served = reviewed.serve(again=True)
    page = open_page(served.url)
    page.get_by_title(name, exact=True).click()
    page.wait_for_function("(n) => view.dataset.ready === n", arg=name)
    assert area(page) == drawn and "accepted" in page.locator("#caption").inner_text()

    # A second page: a stale write is refused with a message, nothing is overwritten.
    second = open_page(served.url)
    second.get_by_title(name, exact=True).click()
    second.wait_for_function("(n) => view.dataset.ready === n", arg=name)
    page.keyboard.press("o")
    expect(page.locator("#said")).to_contain_text("taken back")
    second.keyboard.press("n")
    expect(second.locator("#said")).to_contain_text("was saved by another page")
    second.keyboard.press("r")
    expect(second.locator("#said")).to_be_empty()
    second.keyboard.press("n")
    expect(second.locator("#said")).to_contain_text("nothing")
    second.close()

    # All by keyboard: a box, clicks in and out, brush, undo, skip.
    page.keyboard.press("r")
    expect(page.locator("#caption")).to_contain_text("nothing")
    before = area(page)
    page.locator("#view").focus()
    for key in ("b", "Shift+ArrowLeft", "ArrowUp", " ", "Shift+ArrowRight", "Shift+ArrowDown", " "):
        page.keyboard.press(key)
    expect(page.locator("#caption")).to_contain_text("predicted IoU")
    found = area(page)
    assert found != before
    page.keyboard.press("z")
    assert area(page) == before
    for key in ("p", "]", " "):
        page.keyboard.press(key)
    assert (more := area(page)) > before
    for key in ("e", "[", " "):
        page.keyboard.press(key)
    assert area(page) < more
    for key in ("c", " ", "x"):
        page.keyboard.press(key)
        area(page)
    assert page.evaluate("points.map((p) => p[2])") == [1, 0]
    while page.evaluate("steps.length"):
        page.keyboard.press("z")
    page.locator("#state").select_option("nothing")
    expect(page.locator("#total")).to_have_text("1 images")
    page.locator("#state").select_option("open")
    expect(page.locator("#total")).to_have_text("7 images")
    page.wait_for_function("(n) => !['', n].includes(view.dataset.ready)", arg=name)
    skipped = ready(page)
    page.keyboard.press("s")
    expect(page.locator("#said")).to_contain_text("skipped")
    expect(page.locator("#progress")).to_contain_text("1 of 8 reviewed")  # of a request of its own
    asked = {line for line in page.heard if not line.startswith(f"request: {served.base}")}
    assert not {line for line in asked if "409" not in line}, asked
    assert page.evaluate("document.documentElement.scrollWidth") == 1200
    assert served.end(signal.SIGTERM) == 0, served.running.output
    made = open_masks(project.paths.masks(DATASET, VARIANT)).table()
    assert made.loc[name, "prompt"] == "reviewed: nothing"
    assert made.loc[skipped, "prompt"] == "salient"
