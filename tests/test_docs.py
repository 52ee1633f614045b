"""What the documents name exists, the page of promises is that of the tests, and imports go down
the layers that docs/architecture.md draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.site import REPO
from tools.trust import PromiseError, page, promises

PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_has_at_most_1000_words(repo: Path) -> None:
    assert len((repo / "README.md").read_text(encoding="utf-8").split()) <= 1000


def test_the_page_of_promises_is_that_of_the_tests(repo: Path, tmp_path: Path) -> None:
    text = (repo / "docs/trust.md").read_text(encoding="utf-8")
    assert text == page(promises(repo / "tests")), "run: python -m tools.trust"
    (tmp_path / "test_x.py").write_text(
        'import pytest\n@pytest.mark.promise("no full stop")\ndef test_x(): ...\n'
    )
    with pytest.raises(PromiseError, match="not a plain sentence"):
        promises(tmp_path)


@pytest.mark.promise("A module imports only from the layers below its own.")
def test_imports_go_down_the_layers_only(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=repo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 2 kept, 0 broken." in done.stdout
