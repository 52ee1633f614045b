"""The faults of benchmarks/faults/ fit the code, and their judge tells caught from not caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.faults import load_faults

HOLM = {
    "function": "pipeline.evaluate.scores:holm",
    "text": "np.maximum.accumulate(p[order] * factors)",
    "tests": ["evaluate/test_intervals.py::test_holm_is_the_textbook_example_and_keeps_the_order"],
}


@pytest.mark.parametrize("fault", load_faults(), ids=lambda fault: fault.name)
def test_a_fault_fits_its_function_and_its_tests_exist(repo: Path, fault) -> None:
    source = fault.path(repo).read_text(encoding="utf-8")
    assert fault.applied(source) != source
    for test in fault.tests:
        file, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in (repo / "tests" / file).read_text(encoding="utf-8")


def test_a_fault_counts_as_caught_only_if_an_assertion_fails(repo: Path, tmp_path: Path) -> None:
    changes = {
        "fault": "p[order] * factors",
        "broken": "np.maximum.accumulate(p[order] * missing_name)",
    }
    entries = [{"name": name, "becomes": text, **HOLM} for name, text in changes.items()]
    faults = tmp_path / "holm.yaml"
    faults.write_text(yaml.safe_dump(entries))
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--faults", str(faults)],
        cwd=repo,
        capture_output=True,
        text=True,
    )
    row = {
        name: line for line in done.stdout.splitlines() for name in changes if f": {name} |" in line
    }
    assert done.returncode == 1, done.stderr
    assert row["fault"].endswith("| yes |")
    assert "NOT" in row["broken"] and "NameError" in row["broken"]
    assert "1 of 2 faults caught" in done.stdout
