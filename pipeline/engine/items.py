"""What a stage works on: one item an image, and a mapper that turns items into store rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class WorkItem:
    """One row of a stage: an image (or one frame of a file) that the store shall hold.

    Args:
        image_id: the row's name in manifest and store.
        key: hash of everything of the ROW that decides its content (`item_key`): the image's
            sha256, frame, prompt columns, mask digest. Two items of one key have one content,
            so it must not hold the image_id or the label.
        path: the image file.
        frame: frame or page within the file.
        row: the manifest's columns (text); `sha256`, `label` and `split` are used here, the rest
            is the mapper's business.
    """

    image_id: str
    key: str
    path: Path
    frame: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)


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
