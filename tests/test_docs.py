"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_link_of_the_readme_to_a_file_leads_to_one(repo: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (repo / "README.md").read_text())
    assert links and not [link for link in links if not (repo / link).exists()]
