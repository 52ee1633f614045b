"""The blocks of docs/guides/ are run, in the order of their page.

A block of Python whose first line is a comment with a path is saved there; other blocks are run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.site import REPO, Site

GUIDES = sorted((REPO / "docs/guides").glob("*.md"))
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.promise("Every guide does what it says: its blocks are run by the tests.")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_blocks_of_a_guide_run(site: Site, guide: Path) -> None:
    blocks = BLOCK.findall(guide.read_text(encoding="utf-8"))
    assert blocks
    for language, text in blocks:
        path = re.match(r"# (\S+\.py)\n", text)
        if language == "bash":
            script = 'pipeline() { python -m pipeline "$@"; }\n' + text
            site.run("bash", "-euo", "pipefail", "-c", script, PYTHONPATH=str(site.root))
        elif path:
            target = site.root / path[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        else:
            site.run("python", "-c", text, PYTHONPATH=str(site.root))
