"""The faults of benchmarks/mutants.yaml fit the code, and their judge tells caught from not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks.mutants import load_mutants

MUTANTS = load_mutants()


def test_every_part_of_the_promises_has_faults() -> None:
    assert len(MUTANTS) >= 40
    assert {"sanity", "splits", "metrics", "pixels", "stores", "audit", "faults", "report"} <= {
        mutant.part for mutant in MUTANTS
    }


PARTS = {  # as docs/trust.md calls them
    "sanity and training": "sanity",
    "metrics and intervals": "metrics",
    "failures and hostile files": "faults",
    "leak audit": "audit",
}


def test_docs_trust_counts_the_faults_as_they_are(repo: Path) -> None:
    text = (repo / "docs/trust.md").read_text(encoding="utf-8").split("## Do the tests fail")[1]
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \|", text, re.MULTILINE)
    stated = {PARTS.get(about, about): int(count) for about, count in rows}
    assert stated == Counter(mutant.part for mutant in MUTANTS)
    tests = {test for mutant in MUTANTS for test in mutant.tests}
    n = len(MUTANTS)
    assert f"**{n} of {n} faults are caught**, by {len(tests)} tests" in " ".join(text.split())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_put_in_at_one_place_and_its_tests_exist(repo: Path, mutant) -> None:
    source = (repo / mutant.file).read_text(encoding="utf-8")
    assert mutant.applied(source) != source
    for test in mutant.tests:
        file, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in (repo / "tests" / file).read_text(encoding="utf-8")


HOLM = {
    "file": "pipeline/evaluate/compare.py",
    "text": "np.maximum.accumulate(p[order] * factors)",
    "tests": ["evaluate/test_intervals.py::test_holm_is_the_textbook_example_and_keeps_the_order"],
}


def test_the_judge_tells_a_fault_from_a_harmless_change_and_from_broken_code(
    repo: Path, tmp_path: Path
) -> None:
    changes = {
        "fault": "p[order] * factors",
        "harmless": "np.maximum.accumulate(factors * p[order])",
        "broken": "np.maximum.accumulate(p[order] * missing_name)",
    }
    entries = [{"name": name, "becomes": text, **HOLM} for name, text in changes.items()]
    faults = tmp_path / "faults.yaml"
    faults.write_text(yaml.safe_dump({"holm": entries}))
    done = subprocess.run(
        [sys.executable, "benchmarks/mutants.py", "--faults", str(faults)],
        cwd=repo,
        capture_output=True,
        text=True,
    )
    row = {
        name: line for line in done.stdout.splitlines() for name in changes if f": {name} |" in line
    }
    assert done.returncode == 1, done.stderr
    assert row["fault"].endswith("| yes |")
    assert "NOT" in row["harmless"] and "passed" in row["harmless"]
    assert "NOT" in row["broken"] and "NameError" in row["broken"]
    assert "1 of 3 faults caught" in done.stdout
