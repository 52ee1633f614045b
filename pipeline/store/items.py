"""What a store takes: an identity, items to be computed, and the rows that mappers make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import StoreError


@dataclass(frozen=True, slots=True)  # there may be millions
class WorkItem:
    """One image, or one frame of a file, that a store should hold.

    Args:
        image_id: the row's name in manifest and store.
        key: hash of everything about the row that decides its content: the image's sha256, frame,
            prompt columns, checksum of the mask. Items with the same key have the same content,
            so it must not depend on image_id or label.
        path: the image file.
        frame: frame or page within the file.
        row: the manifest's columns as text. Stores use `sha256`, `label`, `split`, `height` and
            `width`.
    """

    image_id: str
    key: str
    path: Path
    frame: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)


class TableRow(Mapping[str, Any]):
    """Row `at` of a table as a mapping, whose cells are read when they are asked for: dicts of a
    million rows take a gigabyte. `columns` is name -> array, `own` what was added to the row."""

    __slots__ = ("at", "columns", "own")

    def __init__(self, columns: Mapping[str, Any], at: int):
        self.columns, self.at, self.own = columns, at, None

    def __getitem__(self, name: str) -> Any:
        if self.own and name in self.own:
            return self.own[name]
        cell = self.columns[name][self.at]
        return cell.item() if isinstance(cell, np.generic) else cell

    def __setitem__(self, name: str, value: Any) -> None:
        self.own = {**(self.own or {}), name: value}

    def __iter__(self) -> Iterator[str]:
        return iter({**self.columns, **(self.own or {})})

    def __len__(self) -> int:
        return len({**self.columns, **(self.own or {})})

    def __reduce__(self) -> tuple:  # a worker is sent this row only
        return dict, (dict(self),)


def table_rows(table: pd.DataFrame) -> Iterator[TableRow]:
    """Yield the rows of a table."""
    columns = {name: table[name].array for name in table}
    return (TableRow(columns, at) for at in range(len(table)))


@dataclass(frozen=True)
class MaskRow:
    """The mask of one image.

    Args:
        image_id: the image.
        mask: bool (h, w) at the image's own upright size.
        status: "ok", "empty" or "full"; empty and full masks are kept as results.
        prompt: the prompt as text, e.g. "box 10,12,80,90".
        predicted_iou, stability: SAM2's own scores in [0, 1]; NaN where there is none.
        components: number of connected regions; -1 = count them when written (8-connected).
        reason: a remark, e.g. why a fallback was used.
    """

    image_id: str
    mask: np.ndarray
    status: str = "ok"
    prompt: str = ""
    predicted_iou: float = float("nan")
    stability: float = float("nan")
    components: int = -1
    reason: str = ""


@dataclass(frozen=True)
class CandidateRow:
    """The candidate masks of one image, best first.

    Args:
        image_id: the image.
        packed: the masks, bool (k, h, w), as `np.packbits(masks, axis=2)`, since many are held.
        width: w, pixels.
        figures: float32 (k, 3): score, predicted IoU, stability.
        status: "ok", or "empty" without candidates.
        reason: "blank" where that is why.
    """

    image_id: str
    packed: np.ndarray
    width: int
    figures: np.ndarray
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class EmbeddingRow:
    """SAM2's embedding of one whole image: maps (c, h, w), the coarse one last, float32 or the bits
    of bfloat16 as int16."""

    image_id: str
    maps: Sequence[np.ndarray]
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class FeatureRow:
    """The embeddings of one image.

    Args:
        image_id: the image.
        features: float32 (view, feature), views in the order of the writer; a view that does not
            exist for this image (oracle without ground truth) is all NaN.
        tokens: float32 (view, token, feature) when the store keeps tokens, else None.
        pooled: float32 (pooled view, feature) when the store has such views, else None.
        mask_status: status of the mask that the views were made with; "" = no mask used.
        mask_crc: checksum of that mask in the mask store; -1 = no mask used.
        reason: a remark, e.g. "mask empty: whole image used".
        status: always "ok"; failed rows are written by `write_failed`.
    """

    image_id: str
    features: np.ndarray
    tokens: np.ndarray | None = None
    pooled: np.ndarray | None = None
    mask_status: str = ""
    mask_crc: int = -1
    reason: str = ""
    status: str = "ok"


@dataclass
class Plan:
    """Items sorted by what they need.

    Args:
        todo: (item, reason) to compute; reason "" = a new row.
        copies: (item, reason) whose key is that of another item of `todo` or of a stored row.
        reused: items whose row is stored and good.
    """

    todo: list[tuple[WorkItem, str]] = field(default_factory=list)
    copies: list[tuple[WorkItem, str]] = field(default_factory=list)
    reused: list[WorkItem] = field(default_factory=list)


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity (all that decides a store's content) as it reads back from JSON.

    Raises:
        StoreError: a value is not JSON (NaN included).
    """
    try:
        return json.loads(json.dumps(identity, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"this identity cannot be written as JSON: {error}") from None


def identity_diff(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line per difference, e.g. `encode.fill: "black" in the store, "mean" now`.

    Lists are compared as a whole, since their order matters.
    """
    flat = (dict(*pd.json_normalize(canonical(i)).to_dict("records")) for i in (stored, wanted))
    old, new = ({k: json.dumps(v, ensure_ascii=False) for k, v in one.items()} for one in flat)
    return [
        f"{key}: {old.get(key, 'absent')[:80]} in the store, {new.get(key, 'absent')[:80]} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
