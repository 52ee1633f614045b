"""What a stage works on: one item an image, and a mapper that turns items into store rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pipeline.store.items import WorkItem

__all__ = ["Mapper", "WorkItem"]


class Mapper(Protocol):
    """A model as the engine sees it. SAM2 and CLIP are the two that exist."""

    identity: dict[str, Any]
    """Everything of the STORE that decides content (JSON values): reader rules, model
    fingerprint, prompt strategy, geometry, fill, precision, code version."""

    def load(self, item: WorkItem) -> Any:
        """Read and preprocess one item; called in loader threads, ahead of the model.

        Any `Exception` fails this row by name and reason; the rest of the run goes on.
        """
        ...

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Any]) -> Sequence[Any]:
        """Return one row an item (`MaskRow`, `FeatureRow`), in order.

        Called from several threads at a time where `run_stage` was given several cores.
        A row's content may depend on its own item only, never on its neighbours in the batch.
        An exception here makes the engine repeat the batch item by item, so that one image
        that a model cannot take fails alone.
        """
        ...
