"""What ties predictions.parquet, and then metrics.parquet, to runs and features of a training.

They are files of their own, so that a kill or another run may come between their replacements.
Lengths and ids would not tell: other features of the same images give as many rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pipeline.store.identity import identity_hash

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa

RUN_COLUMNS = (
    "protocol",
    "head",
    "view",
    "fraction",
    "seed",
    "n_train",
    "n_val",
    "n_test",
    "chosen",
    "val_score",
    "status",
    "error",
    "digest",
)
"""Of runs.parquet."""

_RUNS, _FEATURES = b"runs", b"features"


def pairing(runs: pd.DataFrame, features: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the schema metadata of the predictions of these runs: a hash of the digests of those
    that succeeded, in order, and one of the identity of the features."""
    return {_RUNS: _digest(runs), _FEATURES: identity_hash(features).encode()}


def paired(runs: pd.DataFrame, schema: pa.Schema) -> bool:
    """Whether the predictions with this schema are those of these runs."""
    return (schema.metadata or {}).get(_RUNS) == _digest(runs)


def of_features(schema: pa.Schema, features: Mapping[str, Any]) -> bool:
    """Whether the predictions with this schema were made on features of this identity."""
    return (schema.metadata or {}).get(_FEATURES) == identity_hash(features).encode()


def trained(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return the part of a schema's metadata that `pairing` made; it is alike in tables of the same
    training."""
    return {k: v for k, v in (schema.metadata or {}).items() if k in (_RUNS, _FEATURES)}


def _digest(runs: pd.DataFrame) -> bytes:
    digests = runs.loc[runs["status"] == "ok", "digest"]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest().encode()
