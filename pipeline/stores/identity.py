"""The identity of a store: everything that decides its content, compared in words a person reads.

A store made with one model, prompt, fill or geometry never takes rows of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import StoreError
from pipeline.files import sha256_json


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity as it reads back from JSON: tuples as lists, keys as text.

    Raises:
        StoreError: a value is not JSON (NaN included), so that it could not be compared later.
    """
    try:
        return json.loads(json.dumps(identity, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"this identity cannot be written as JSON: {error}") from None


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical identity."""
    return sha256_json(canonical(identity))


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists are leaves: their order counts as one choice."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key in sorted(value):
        leaves.update(_leaves(value[key], f"{prefix}.{key}" if prefix else key))
    return leaves


def identity_diff(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line for each difference, e.g. `encode.fill: "black" in the store, "mean" now`."""
    old, new = _leaves(canonical(stored)), _leaves(canonical(wanted))
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key not in new:
            lines.append(f"{key}: {_show(old[key])} in the store, absent now")
        elif key not in old:
            lines.append(f"{key}: absent in the store, {_show(new[key])} now")
        elif old[key] != new[key]:
            lines.append(f"{key}: {_show(old[key])} in the store, {_show(new[key])} now")
    return lines


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"
