"""Threads and memory of the process that runs a stage.

Imports no array library: `keep_freed_memory` has to be called before one starts its threads.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import sys
import threading

_shared_arena = threading.Event()  # set if all threads of this process use one memory arena


def model_cores(device: str) -> int:
    """Return into how many slices a batch is worth cutting: on the CPU one per core of torch, if
    the threads share one memory arena (`keep_freed_memory`); else memory is cleared per slice."""
    if device != "cpu" or not _shared_arena.is_set():
        return 1
    import torch

    return torch.get_num_threads()


def set_torch_threads(count: int) -> None:
    """Set the number of torch threads of the calling thread, if torch is loaded."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, count))


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors for the next batch (glibc only).

    By default the C library returns blocks above 32 MB to the system, which clears their pages
    again for each layer: a quarter of the time of a model on the CPU. It also gives each thread an
    arena of its own, which can be changed only before the threads start: call this first.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # constants of malloc.h
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(arena_max, 1)
    # Threads that array libraries start on import have arenas by then, which others may share.
    if "numpy" not in sys.modules:
        _shared_arena.set()


def end_with_parent() -> None:
    """Exit when the parent process dies: a worker that waits for work would wait for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
