"""Freed tensor memory is kept for the next batch where the C library allows it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
FREED = """
import pipeline.cli
import psutil, threading, torch
def make_and_free():
    torch.ones(50_000_000)
before = psutil.Process().memory_info().rss
t = threading.Thread(target=make_and_free); t.start(); t.join()
print(psutil.Process().memory_info().rss - before)
"""


def run(code: str) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(ran.stdout)


@GLIBC
@pytest.mark.parametrize(
    ("first", "cores"),
    [("import pipeline.cli", 2), ("import numpy, pipeline.cli", 1)],
    ids=["command", "too late"],
)
def test_slices_are_for_processes_whose_threads_share_memory(first: str, cores: int) -> None:
    call = "from pipeline.engine.options import model_cores; print(model_cores('cpu'))"
    assert run(f"{first}\n{call}") == cores


@GLIBC
def test_freed_memory_of_any_thread_is_kept() -> None:
    assert run(FREED) > 150_000_000
