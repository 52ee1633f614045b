"""The blocks of docs/guides/ are run, in the order of their page.

A block of Python whose first line is a comment with a path is saved there; other blocks are run.
tests/models runs the blocks of add_an_encoder, which need no project.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests import warm
from tests.site import REPO, Site

GUIDES = [g for g in sorted((REPO / "docs/guides").glob("*.md")) if g.stem != "add_an_encoder"]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.promise("Every guide does what it says: its blocks are run by the tests.")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_blocks_of_a_guide_run(site: Site, guide: Path) -> None:
    blocks = BLOCK.findall(guide.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"python", "bash"}
    path = f"{warm.programs()}{os.pathsep}{site.environment()['PATH']}"
    for language, text in blocks:
        if language == "bash":
            script = ("bash", "-euo", "pipefail", "-c", text)
            site.run(*script, PATH=path, PYTHONPATH=str(site.root), **{warm.OWN_CODE: "1"})
        else:
            target = site.root / re.match(r"# (\S+\.py)\n", text)[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
