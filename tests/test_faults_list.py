"""The faults of benchmarks/faults/ fit the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults import load_faults


@pytest.mark.parametrize("fault", load_faults(), ids=lambda fault: fault.name)
def test_a_fault_fits_its_function_and_its_tests_exist(repo: Path, fault) -> None:
    source = fault.path(repo).read_text(encoding="utf-8")
    assert fault.applied(source) != source
    for test in fault.tests:
        file, name = test.split("::")
        assert f"def {name.split('[')[0]}(" in (repo / "tests" / file).read_text(encoding="utf-8")
