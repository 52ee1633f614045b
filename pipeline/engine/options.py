"""The options of a run, and the device and precision of its model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import ConfigError

ENGINES = ("local", "dask", "ray")
CLUSTERS = {
    "dask": ("Dask scheduler", "start `dask scheduler` there, and `dask worker` on the machines"),
    "ray": (
        "Ray cluster",
        "start `ray start --head` there, and `ray start --address` on the machines; if it asks for "
        "a token, set RAY_AUTH_MODE=token here",
    ),
}


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
        engine: where rows are computed: "local" (this process), or the workers of "dask" or "ray".
        scheduler: address of the Dask scheduler or of the Ray cluster.
        devices: numbers of the GPUs of this machine that get a worker process each, e.g. "0,1".
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    only: Collection[str] | None = None
    force: bool = False
    progress: bool = True
    on_mismatch: str = "refuse"
    engine: str = "local"
    scheduler: str | None = None
    devices: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "workers": 1, "limit": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}", remedy=f"use {least} or more")
        if self.engine not in ENGINES:
            remedy = f"choose from {', '.join(ENGINES)}"
            raise ConfigError(f"there is no engine {self.engine!r}", remedy=remedy)
        if (self.engine == "local") != (self.scheduler is None):
            remedy = "give both, or neither: --engine dask --scheduler tcp://HOST:8786"
            raise ConfigError("--engine dask or ray goes with --scheduler", remedy=remedy)
        if self.devices is not None and self.engine != "local":
            remedy = "start one worker of the cluster for each GPU instead (docs/scale.md)"
            raise ConfigError("--devices is for the GPUs of this machine", remedy=remedy)

    def knock(self) -> None:
        """Raise ConfigError where nobody listens at the scheduler's host:port. The engines' clients
        would try for half a minute."""
        host, _, port = (self.scheduler or "").rpartition("://")[2].rpartition(":")
        if host and port.isdigit():
            import socket

            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            except OSError as error:
                raise self.nobody(error) from None

    def nobody(self, error: Exception) -> ConfigError:
        """Return the error of a cluster that cannot be connected to."""
        what, remedy = CLUSTERS[self.engine]
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return ConfigError(f"no {what} at {self.scheduler} ({said})", remedy=remedy)

    @property
    def in_this_process(self) -> bool:
        """Whether rows are computed in this process, not in others."""
        return self.engine == "local" and self.devices is None

    @property
    def on_store_mismatch(self) -> str:
        """`on_mismatch`, or "force" when `force` applies to all images."""
        everything = self.only is None and self.limit is None
        return "force" if self.force and everything else self.on_mismatch

    def model_options(self, precision: str) -> dict[str, str]:
        """Return `device` and `precision` to load a model with; ConfigError if there is no such
        device. A precision of "auto" becomes bf16 on cuda and fp32 elsewhere; fp32 on cuda is not
        TF32, which torch takes for convolutions by itself."""
        import torch

        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        available = [name for name, here in {"cuda": cuda, "mps": mps}.items() if here] + ["cpu"]
        device = available[0] if self.device == "auto" else self.device
        if device.split(":")[0] not in available:
            raise ConfigError(f"no device {device!r} here", remedy="use --device auto or cpu")
        if precision == "auto":
            precision = "bf16" if device.startswith("cuda") else "fp32"
        if device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = False
        return {"device": device, "precision": precision}
