"""The identity of a store: everything that decides its content.

A store made with one model, prompt, fill or geometry never takes rows made with another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import StoreError
from pipeline.io import sha256_json


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity as it reads back from JSON: tuples as lists, keys as text.

    Raises:
        StoreError: a value is not JSON (NaN included).
    """
    try:
        return json.loads(json.dumps(identity, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(f"this identity cannot be written as JSON: {error}") from None


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical identity."""
    return sha256_json(canonical(identity))


def identity_diff(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return one line per difference, e.g. `encode.fill: "black" in the store, "mean" now`.

    A section that only one side has is one line. Lists are compared as a whole, since their order
    matters.
    """
    return _differ(canonical(stored), canonical(wanted), "")


def _differ(old: dict[str, Any], new: dict[str, Any], above: str) -> list[str]:
    lines = []
    for name in sorted(old.keys() | new.keys()):
        key, was, now = above + name, old.get(name), new.get(name)
        if isinstance(was, dict) and isinstance(now, dict) and was and now:
            lines += _differ(was, now, f"{key}.")
        elif name not in new:
            lines.append(f"{key}: {_show(was)} in the store, absent now")
        elif name not in old:
            lines.append(f"{key}: absent in the store, {_show(now)} now")
        elif was != now:
            lines.append(f"{key}: {_show(was)} in the store, {_show(now)} now")
    return lines


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"
