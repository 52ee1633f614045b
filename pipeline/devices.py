"""Which device a run uses, and in which precision."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading

from pipeline.errors import ConfigError

_calmed = threading.local()
_one_arena = threading.Event()  # set where all threads of this process share their memory


def choose_device(device: str) -> str:
    """Turn "auto" into the best device there is: cuda, then mps, then cpu.

    Raises:
        ConfigError: the device asked for is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device == "auto":
        return next((name for name, is_there in available.items() if is_there()), "cpu")
    kind = device.split(":")[0]
    if kind not in (*available, "cpu") or (kind in available and not available[kind]()):
        raise ConfigError(f"no device {device!r} here", remedy="use --device auto or cpu")
    return device


def choose_precision(precision: str, device: str) -> str:
    """Turn "auto" into bf16 on cuda and fp32 elsewhere.

    The result is part of a store's identity: a store is never continued in another precision.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.startswith("cuda") else "fp32"


def model_cores(device: str) -> int:
    """Return on how many cores slices of a batch are worth mapping side by side.

    All of torch's on the CPU, if its threads share the memory that `keep_freed_memory` keeps; else
    1, since each slice would have its pages cleared anew.
    """
    import torch

    return torch.get_num_threads() if device == "cpu" and _one_arena.is_set() else 1


def torch_threads_here(count: int) -> None:
    """Let torch use so many cores for what this thread computes."""
    import torch

    torch.set_num_threads(max(1, count))


def one_thread_here() -> None:
    """Keep torch from starting threads of its own inside a loader thread.

    The loader threads are as many as the cores already; a pool of each of them would fight the
    model for the cores. The main thread keeps its pool.
    """
    if threading.current_thread() is threading.main_thread() or getattr(_calmed, "done", False):
        return
    torch_threads_here(1)
    _calmed.done = True


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors for the next batch (glibc; else nothing).

    By default the C library gives blocks above 32 MB back at once, and the system clears their
    pages anew for each layer of each batch: a quarter of the time of a model on the CPU. It also
    gives each thread an arena of its own, which cannot hold such blocks at all; that can be changed
    only for threads that have not started, so the command calls this before all else.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim, mmap, arenas = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
    libc.mallopt(trim, 2**31 - 1)
    libc.mallopt(mmap, 2**30)
    libc.mallopt(arenas, 1)
    # The threads that array libraries start on import have arenas by then, for others to share.
    if "numpy" not in sys.modules:
        _one_arena.set()
