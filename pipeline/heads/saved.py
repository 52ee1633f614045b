"""Fitted heads on disk: two files a head name, <head>.safetensors and <head>.json. No pickle.

A tensor's key is `protocol/view/fraction/seed/tensor`; the JSON holds, under
`protocol/view/fraction/seed`, the head's config, the labels it used and the digest of all that
decided it, and once for all the class list and the identity of the features.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.heads.base import Head
from pipeline.heads.registry import get_head
from pipeline.io import atomic_write, atomic_write_json

FORMAT = 1


@dataclass(frozen=True)
class SavedHead:
    """One fitted head as it lies on disk.

    Attributes:
        where: (protocol, view, fraction, seed).
        tensors: the arrays of `Head.to_tensors`.
        config: the dictionary of `Head.to_config`.
        facts: n_train, n_val, digest and what else the writer wants kept (json-able).
    """

    where: tuple[str, str, float, int]
    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)


def cell_key(protocol: str, view: str, fraction: float, seed: int) -> str:
    """Return the key of a fitted head, e.g. `official/masked/0.05/3`."""
    return f"{protocol}/{view}/{fraction:g}/{seed}"


def save_heads(
    folder: Path,
    name: str,
    classes: list[str],
    heads: Iterable[SavedHead],
    features: Mapping[str, Any],
) -> None:
    """Write all fitted heads of one name, replacing the two files.

    The JSON is written last and names what the tensors file must hold.

    Args:
        folder: of all heads of a dataset.
        name: of the head.
        classes: in the order of `predict_proba`'s columns.
        heads: all of that name.
        features: identity of the feature store that they learned from.
    """
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    cells: dict[str, Any] = {}
    for head in sorted(heads, key=lambda h: h.where):
        key = cell_key(*head.where)
        cells[key] = {"config": head.config, "tensors": sorted(head.tensors), **head.facts}
        for tensor, array in head.tensors.items():
            tensors[f"{key}/{tensor}"] = np.ascontiguousarray(array)
    with atomic_write(folder / f"{name}.safetensors") as partial:
        partial.write_bytes(save(tensors))  # not save_file: its error hides what the disk said
    table = {"format": FORMAT, "head": name, "classes": classes, "cells": cells}
    atomic_write_json(folder / f"{name}.json", table | {"features": features})


def learned_from(folder: Path, name: str) -> dict[str, Any]:
    """Return the identity of the features that the saved heads of one name learned from; empty
    where an earlier version wrote them.

    Raises:
        PipelineError: as `load_heads`.
    """
    return _read(folder, name).get("features", {})


def load_heads(folder: Path, name: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the class list and, by cell key, the JSON facts of the saved heads of one name.

    Raises:
        PipelineError: there is no such file, or it is of another format.
    """
    table = _read(folder, name)
    return table["classes"], table["cells"]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = Path(folder) / f"{name}.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.json")))
        remedy = f"take one that is: {there}" if there else "run: pipeline train"
        raise PipelineError(f"no saved head {name!r}", path=path, remedy=remedy) from None
    except ValueError as error:
        raise PipelineError(
            f"damaged: {error}", path=path, remedy="run: pipeline train (it writes the file anew)"
        ) from None
    if table.get("format") != FORMAT:
        raise PipelineError(
            f"format {table.get('format')!r} is not {FORMAT}", path=path, remedy="train again"
        )
    return table


def read_tensors(folder: Path, name: str, keys: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the tensors of some cells: {cell key: {tensor: array}}."""
    from safetensors import safe_open

    _, cells = load_heads(folder, name)
    found: dict[str, dict[str, np.ndarray]] = {}
    with safe_open(Path(folder) / f"{name}.safetensors", framework="numpy") as file:
        for key in keys:
            names = cells[key]["tensors"]
            found[key] = {tensor: file.get_tensor(f"{key}/{tensor}") for tensor in names}
    return found


def load_head(
    folder: Path, name: str, *, protocol: str, view: str, fraction: float, seed: int
) -> tuple[Head, list[str]]:
    """Return one fitted head and its class list, in the order of `predict_proba`'s columns.

    Raises:
        PipelineError: it was not trained, or its fit failed; the message lists what there is.
    """
    classes, cells = load_heads(folder, name)
    key = cell_key(protocol, view, fraction, seed)
    if key not in cells:
        alike = sorted(k for k in cells if k.startswith(f"{protocol}/{view}/"))
        raise PipelineError(
            f"no head {name} for {key}",
            path=Path(folder) / f"{name}.json",
            remedy=f"of this protocol and view there are: {', '.join(alike) or 'none'}",
        )
    tensors = read_tensors(folder, name, [key])[key]
    return get_head(name).from_saved(tensors, cells[key]["config"]), classes
