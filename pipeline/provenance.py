"""Provenance: results state the digests of their inputs in their own metadata.

An output made from other inputs than those on disk is detected by one comparison:

    stamp(masks=store.digest, manifest=path)        # -> {"masks": "ab12...", "manifest": "..."}
    check(read_stamp(output), "pipeline encode --dataset brain", output, masks=store.digest)

The stamp lies under the key `inputs`: in the schema metadata of a Parquet file or at the top level
of a JSON file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.io import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "inputs"
"""Where an output's metadata hold its stamp."""


def stamp(**inputs: Any) -> dict[str, str]:
    """Return the digest of each input by name.

    Args:
        inputs: a path (SHA-256 of the file's bytes), a store or another object with a `digest`
            attribute, or a digest itself (str). None and a missing file are recorded as "".
    """
    return {name: digest_of(value) for name, value in sorted(inputs.items())}


def digest_of(value: Any) -> str:
    """Return the digest of one input; see `stamp`."""
    if isinstance(value, PathLike):
        return sha256_file(value) if Path(value).is_file() else ""
    return value or "" if isinstance(value, str | None) else value.digest


def changed(stamped: Mapping[str, str] | None, **inputs: Any) -> list[str]:
    """Return the sorted names of those of the inputs (as for `stamp`) that differ from a stamp;
    one that the stamp does not name, or no stamp at all, counts as different."""
    return [name for name, now in stamp(**inputs).items() if (stamped or {}).get(name) != now]


def check(
    stamped: Mapping[str, str] | None, command: str, path: str | PathLike, /, **inputs: Any
) -> None:
    """Raise when the output at `path`, with its stamp, was made from other inputs than those given.

    Raises:
        PipelineError: names the inputs that have changed and the command that makes the output
            again.
    """
    if names := changed(stamped, **inputs):
        message = f"was made from other {', '.join(names)} than are there now"
        raise PipelineError(message, path=path, remedy=f"run: {command}")


def read_stamp(path: str | PathLike) -> dict[str, str] | None:
    """Return the stamp of a Parquet or JSON file; None when it has none.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    if Path(path).suffix == ".parquet":
        import pyarrow.parquet as pq

        return schema_stamp(pq.read_schema(path))
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    return value.get(KEY) if isinstance(value, dict) else None


def schema_stamp(schema: pa.Schema) -> dict[str, str] | None:
    """Return the stamp in the metadata of an Arrow schema; None when it has none."""
    text = (schema.metadata or {}).get(KEY.encode())
    return None if text is None else json.loads(text)


def with_stamp(table: pa.Table, stamped: Mapping[str, str]) -> pa.Table:
    """Return an Arrow table whose schema metadata hold the stamp; write it with pyarrow."""
    metadata = {**(table.schema.metadata or {}), KEY.encode(): json.dumps(stamped).encode()}
    return table.replace_schema_metadata(metadata)
