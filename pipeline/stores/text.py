"""The text side of a feature store: T = E_t(t) for every class and template.

It has an identity and a checksum of its own, so that a changed template or class list replaces
these few kilobytes and no image is encoded again.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

from pipeline.errors import StoreError
from pipeline.stores.identity import canonical
from pipeline.stores.layout import (
    ArraySpec,
    TrackedStore,
    array_of,
    moved,
    new_metadata,
    write_metadata,
)

ARRAYS = ("text_features", "class", "template")


def text_crc(features: np.ndarray, classes: Sequence[str], templates: Sequence[str]) -> int:
    """CRC-32 of the float32 bytes and of the names."""
    crc = zlib.crc32(np.ascontiguousarray(features, dtype="<f4").tobytes())
    return zlib.crc32(repr((list(classes), list(templates))).encode("utf-8", "replace"), crc)


def write_text(
    store: TrackedStore,
    old: Mapping[str, dict],
    features: np.ndarray,
    *,
    classes: Sequence[str],
    templates: Sequence[str],
    identity: Mapping[str, Any],
    prompts: Mapping[str, Sequence[str]] | None,
) -> tuple[dict[str, dict], dict[str, Any]]:
    """Write the three text arrays beside the `old` ones, by metadata; return their metadata and
    the root attributes they need."""
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 3 or features.shape[:2] != (len(classes), len(templates)):
        raise ValueError(
            f"text features have shape {features.shape}, not (class, template, feature) = "
            f"({len(classes)}, {len(templates)}, d)"
        )
    if len(set(classes)) != len(classes):
        raise ValueError("class names must differ")
    if not np.isfinite(features).all():
        raise ValueError("text features must be finite")
    dims = ("class", "template", "feature")
    metadata = {}
    for name, dim, values in (
        ("text_features", dims, features),
        ("class", ("class",), np.array(classes, dtype=object)),
        ("template", ("template",), np.array(templates, dtype=object)),
    ):
        dtype = "float32" if name == "text_features" else "string"
        shape = values.shape
        metadata[name] = new_metadata(ArraySpec(name, dim, shape, dtype, shape))
        same = old.get(name, {}).get("chunk_key_encoding") == metadata[name]["chunk_key_encoding"]
        metadata[name] = moved(metadata[name]) if same else metadata[name]
        array_of(store, name, metadata[name])[...] = values
        write_metadata(store, name, metadata[name])
    attrs = {
        "text_identity": canonical(identity),
        "text_crc": text_crc(features, classes, templates),
        "prompts": {k: list(v) for k, v in (prompts or {}).items()},
    }
    return metadata, attrs


def read_text(path: Path, root: Mapping[str, Any]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return features (class, template, feature), class names and template names, checked.

    Raises:
        StoreError: there are none, or they do not match their checksum.
    """
    remedy = "run the encode stage again; it encodes the prompts and no image"
    expected = root["attributes"].get("text_crc")
    if expected is None:
        raise StoreError("the store holds no text features", path=path, remedy=remedy)
    try:
        store = LocalStore(path, read_only=True)
        metadata = root["consolidated_metadata"]["metadata"]
        features, classes, templates = (
            array_of(store, name, metadata[name])[...] for name in ARRAYS
        )
        classes, templates = classes.tolist(), templates.tolist()
        intact = text_crc(features, classes, templates) == expected
    except Exception:
        intact = False
    if not intact:
        raise StoreError("the text features are lost or damaged", path=path, remedy=remedy)
    return features, classes, templates


def text_problem(path: Path, root: Mapping[str, Any]) -> str:
    """Return what is wrong with the text features, "" for nothing (none at all is nothing)."""
    if root["attributes"].get("text_crc") is None:
        return ""
    try:
        read_text(path, root)
    except StoreError as error:
        return error.message
    return ""
