"""How a stage runs: its options, device and precision, threads, and the memory of the process.

Imports no array library: `keep_freed_memory` has to be called before one starts its threads.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import ConfigError

_shared_arena = threading.Event()  # set if all threads of this process use one memory arena


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, checked. None of them changes a stored value.

    Args:
        device: "auto" (the first of cuda, mps and cpu that is available) or one of these.
        batch_size: images mapped together; None uses the default of the stage.
        workers: threads that read images; None uses one per core, at most 8.
        limit: compute at most this many rows.
        only: image ids to work on; None for all.
        force: compute rows that are already stored.
        progress: whether to show how far the run is.
        on_mismatch: what to do with a store that was made with other parameters or another model:
            "refuse" raises a `StoreError` that lists the differences, "rebuild" replaces it.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    only: Collection[str] | None = None
    force: bool = False
    progress: bool = True
    on_mismatch: str = "refuse"

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "workers": 1, "limit": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}", remedy=f"use {least} or more")

    @property
    def on_store_mismatch(self) -> str:
        """`on_mismatch`, or "force" when `force` applies to all images."""
        everything = self.only is None and self.limit is None
        return "force" if self.force and everything else self.on_mismatch

    def model_options(self, precision: str) -> dict[str, str]:
        """Return `device` and `precision` to load a model with; ConfigError if there is no such
        device. A precision of "auto" becomes bf16 on cuda and fp32 elsewhere."""
        import torch

        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        available = [name for name, here in {"cuda": cuda, "mps": mps}.items() if here] + ["cpu"]
        device = available[0] if self.device == "auto" else self.device
        if device.split(":")[0] not in available:
            raise ConfigError(f"no device {device!r} here", remedy="use --device auto or cpu")
        if precision == "auto":
            precision = "bf16" if device.startswith("cuda") else "fp32"
        return {"device": device, "precision": precision}


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
