"""What ties predictions.parquet to the runs.parquet of the same training.

They are two files, so that a kill or another run may come between their replacements. Lengths and
ids would not tell: other features of the same images give as many rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_KEY = b"runs"


def pairing(runs: pd.DataFrame) -> dict[bytes, bytes]:
    """Return the schema metadata of the predictions of these runs: a hash of the digests of those
    that succeeded, in order."""
    digests = runs.loc[runs["status"] == "ok", "digest"]
    return {_KEY: hashlib.sha256("\n".join(digests).encode()).hexdigest().encode()}


def paired(runs: pd.DataFrame, schema: pa.Schema) -> bool:
    """Whether the predictions with this schema are those of these runs."""
    return (schema.metadata or {}).get(_KEY) == pairing(runs)[_KEY]
