"""Choose device and precision, and set up threads and memory for models on the CPU.

Imports no array library: `keep_freed_memory` has to be called before one starts its threads.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading

from pipeline.errors import ConfigError

_shared_arena = threading.Event()  # set if all threads of this process use one memory arena


def choose_device(device: str) -> str:
    """Return the device to use; "auto" becomes the first of cuda, mps and cpu that is available.

    Raises:
        ConfigError: the requested device is not available.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available())
    if not available.get(device.split(":")[0], lambda: False)():
        raise ConfigError(f"no device {device!r} here", remedy="use --device auto or cpu")
    return device


def choose_precision(precision: str, device: str) -> str:
    """Return the precision to use; "auto" becomes bf16 on cuda and fp32 elsewhere.

    The result is part of the identity of a store.
    """
    if precision != "auto":
        return precision
    return "bf16" if device.startswith("cuda") else "fp32"


def model_cores(device: str) -> int:
    """Return into how many slices a batch is worth cutting, one per core.

    On the CPU these are all cores of torch if the threads share one memory arena (see
    `keep_freed_memory`); otherwise the system would clear memory anew for every slice.
    """
    if device != "cpu" or not _shared_arena.is_set():
        return 1
    import torch

    return torch.get_num_threads()


def set_torch_threads(count: int) -> None:
    """Set the number of torch threads of the calling thread, if torch is loaded.

    Loader threads get one each: there are as many of them as cores, and a pool for each would
    slow down the model.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(max(1, count))


def keep_freed_memory() -> None:
    """Let the process reuse the memory of freed tensors for the next batch (glibc only).

    By default the C library returns blocks above 32 MB to the system at once, which clears their
    pages again for each layer of each batch: a quarter of the time of a model on the CPU. It also
    gives each thread an arena of its own, which cannot hold such blocks. That can be changed only
    before the threads start, so the command line calls this first.
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
