"""The memory of freed tensors is kept for the next batch where the C library can be told so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FREED = """
{first}
import psutil, threading, torch
def make_and_free():
    torch.ones(50_000_000)
before = psutil.Process().memory_info().rss
{call}
print(psutil.Process().memory_info().rss - before)
"""
ASKED = "from pipeline.engine.devices import keep_freed_memory; keep_freed_memory()"
HERE = "make_and_free()"
IN_A_THREAD = "t = threading.Thread(target=make_and_free); t.start(); t.join()"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("first", "cores"),
    [("import pipeline.cli", "2"), ("import numpy, pipeline.cli", "1"), ("", "1")],
    ids=["command", "too late", "not asked"],
)
def test_slices_side_by_side_are_for_processes_whose_threads_share_memory(first, cores) -> None:
    code = f"{first}\nfrom pipeline.engine.devices import model_cores; print(model_cores('cpu'))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert ran.stdout.strip() == cores


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("first", "call", "kept"),
    [
        (ASKED, HERE, True),
        ("", HERE, False),
        ("import pipeline.cli", IN_A_THREAD, True),
    ],
    ids=["asked", "not asked", "command, in a thread"],
)
def test_freed_memory_is_kept_only_when_asked(first: str, call: str, kept: bool) -> None:
    code = FREED.format(first=first, call=call)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(ran.stdout) > 150_000_000) == kept
