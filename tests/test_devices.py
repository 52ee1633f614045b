"""Freed tensor memory is kept for the next batch where the C library allows it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
FREED = """
{first}
import psutil, threading, torch
def make_and_free():
    torch.ones(50_000_000)
before = psutil.Process().memory_info().rss
{call}
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
    [("import pipeline.cli", 2), ("import numpy, pipeline.cli", 1), ("", 1)],
    ids=["command", "too late", "not requested"],
)
def test_slices_are_for_processes_whose_threads_share_memory(first: str, cores: int) -> None:
    call = "from pipeline.engine.options import model_cores; print(model_cores('cpu'))"
    assert run(f"{first}\n{call}") == cores


@GLIBC
@pytest.mark.parametrize(
    ("first", "call", "kept"),
    [
        ("", "make_and_free()", False),
        (
            "import pipeline.cli",
            "t = threading.Thread(target=make_and_free); t.start(); t.join()",
            True,
        ),
    ],
    ids=["not requested", "command, in a thread"],
)
def test_freed_memory_is_kept_only_on_request(first: str, call: str, kept: bool) -> None:
    assert (run(FREED.format(first=first, call=call)) > 150_000_000) == kept
