"""How a stage runs, as one object that is passed from the command line down to the engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class RunOptions:
    """Options of one run. None of them changes a stored value.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images mapped together; None uses the default of the stage.
        workers: threads that read images; None uses one per core, at most 8; 0 reads in the
            calling thread.
        limit: compute at most this many rows.
        only: image ids to work on; None for all images of the manifest.
        force: compute rows that are already stored.
        progress: True shows a bar, False nothing, None a bar on a terminal and log lines elsewhere.
        on_mismatch: what to do with a store that was made with other parameters or another model:
            "refuse" raises a `StoreError` that lists the differences, "rebuild" replaces it.

    Raises:
        ConfigError: a value is out of range.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    limit: int | None = None
    only: Collection[str] | None = None
    force: bool = False
    progress: bool | None = None
    on_mismatch: str = "refuse"

    def __post_init__(self) -> None:
        for name, least in {"batch_size": 1, "workers": 0, "limit": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}", remedy=f"use {least} or more")
        if self.on_mismatch not in ("refuse", "rebuild"):
            raise ConfigError(
                f"on_mismatch is {self.on_mismatch!r}", remedy="use one of refuse, rebuild"
            )

    @property
    def on_store_mismatch(self) -> str:
        """`on_mismatch`, or "force" when `force` applies to all images."""
        everything = self.only is None and self.limit is None
        return "force" if self.force and everything else self.on_mismatch
