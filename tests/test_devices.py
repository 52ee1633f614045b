"""The memory of freed tensors is kept for the next batch where the C library can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FREED = """
import psutil, torch
from pipeline.devices import keep_freed_memory
if {keep}:
    keep_freed_memory()
before = psutil.Process().memory_info().rss
tensor = torch.ones(50_000_000)
del tensor
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_only_when_asked(keep: bool) -> None:
    code = FREED.format(keep=keep)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (int(ran.stdout) > 150_000_000) == keep
