"""What the documents name exists, and the page of promises is that of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.site import REPO

PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_has_at_most_1000_words(repo: Path) -> None:
    assert len((repo / "README.md").read_text(encoding="utf-8").split()) <= 1000


def test_the_page_of_promises_is_that_of_the_tests(repo: Path) -> None:
    from tools.trust import page, promises

    text = (repo / "docs/trust.md").read_text(encoding="utf-8")
    assert text == page(promises(repo / "tests")), "run: python -m tools.trust"


def test_a_promise_is_a_sentence_on_a_test(repo: Path, tmp_path: Path) -> None:
    from tools.trust import PromiseError, page, promises

    assert "| A module imports only from the layers below its own. |" in page(
        promises(repo / "tests")
    )
    (tmp_path / "test_x.py").write_text(
        'import pytest\n@pytest.mark.promise("no full stop")\ndef test_x(): ...\n'
    )
    with pytest.raises(PromiseError, match="not a plain sentence"):
        promises(tmp_path)
