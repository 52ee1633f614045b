"""Freed tensor memory is kept for the next batch where the C library allows it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CORES = "from pipeline.engine.process import model_cores; print(model_cores('cpu'))"
FREED = """
import psutil, threading, torch
def make_and_free():
    torch.ones(50_000_000)
before = psutil.Process().memory_info().rss
t = threading.Thread(target=make_and_free); t.start(); t.join()
print(psutil.Process().memory_info().rss - before > 150_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"import pipeline.cli\n{FREED}\n{CORES}", ["True", "2"]),
        (f"import numpy, pipeline.cli\n{CORES}", ["1"]),
    ],
    ids=["command", "too late"],
)
def test_freed_memory_is_kept_and_slices_are_for_threads_that_share_it(code, said) -> None:
    variables = os.environ | {"OMP_NUM_THREADS": "2"}
    assert subprocess.check_output([sys.executable, "-c", code], env=variables).split() == [
        word.encode() for word in said
    ]
