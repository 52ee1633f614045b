"""Which device a run uses, and in which precision."""

from __future__ import annotations

from pipeline.errors import ConfigError


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
