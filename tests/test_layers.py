"""Imports go downwards only, as docs/architecture.md draws it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.promise("A module imports only from the layers below its own.")
def test_imports_go_down_the_layers_only(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"], cwd=repo, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 2 kept, 0 broken." in done.stdout
