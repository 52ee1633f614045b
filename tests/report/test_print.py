"""On paper a heading and what introduces a figure stay on its page, wherever they fall."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from pipeline.report import build

INTRO = "<p class='note'>955 of 1,311 test images.</p><p>{}</p>".format("One two three. " * 40)
MATRIX = (
    "<div class='scroll'><table class='confusion'><caption>all</caption><tbody>{}</tbody></table>"
    "</div>"
).format("<tr><th class='head'>alpha</th><td>1.0</td><td>2.0</td></tr>" * 6)
FIGURES = "<div class='figures'>{}</div>".format(
    "<figure><figcaption>all</figcaption><svg viewBox='0 0 440 280'><text y='90'>a</text></svg>"
    "</figure>" * 2
)


def pages_with_words(pdf: bytes) -> int:
    """Count the pages of a PDF on which any text is drawn."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, flags=re.DOTALL)
    found = 0
    for stream in streams:
        try:
            drawn = zlib.decompress(stream)
        except zlib.error:
            continue
        found += bool(re.search(rb"\bBT\b.*?T[jJ]\b", drawn, flags=re.DOTALL))
    return found


@pytest.mark.parametrize("body", [MATRIX, FIGURES], ids=["confusion", "figures"])
@pytest.mark.parametrize("intro", ["<p>One line.</p>", INTRO], ids=["short", "long"])
def test_a_heading_is_on_the_page_of_what_it_introduces(new_page, body, intro):
    css = (Path(build.__file__).parent / "templates/style.css").read_text(encoding="utf-8")
    page = new_page()
    section = f"<section><h3>Heading</h3>{intro}{body}</section>"
    for above in range(0, 1000, 50):  # pixels; a page has about 1,000
        page.set_content(
            f"<style>{css}</style><body><main><section><div style='height: {above}px'></div>"
            f"{section}</section></main></body>"
        )
        pdf = page.pdf(format="A4", prefer_css_page_size=True)
        assert pages_with_words(pdf) == 1, f"{above} px above"
