"""What the documents say exists."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_promise_of_docs_trust_names_tests_that_exist(repo: Path) -> None:
    text = (repo / "docs/trust.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (repo / "tests" / file).read_text()
    ]
    assert not missing


def test_every_link_of_the_readme_to_a_file_leads_to_one(repo: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (repo / "README.md").read_text())
    assert links and not [link for link in links if not (repo / link).exists()]
