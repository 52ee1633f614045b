"""What ties metrics.parquet to the other tables of its evaluation: the hashes of their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.io import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from pipeline.paths import Paths


def tables(dataset: str, paths: Paths) -> dict[str, Path]:
    """Return the tables that are read beside metrics.parquet."""
    plots = {name: paths.plots(dataset) / f"{name}.csv" for name in ("per_class", "comparisons")}
    return {**plots, "mask_quality": paths.mask_quality(dataset)}


def beside(dataset: str, paths: Paths) -> dict[bytes, bytes]:
    """Return the metadata for the schema of metrics.parquet: the hash of each table beside it."""
    return {name.encode(): _hash(path) for name, path in tables(dataset, paths).items()}


def is_beside(name: str, path: Path, schema: pa.Schema) -> bool:
    """Whether a table is of the evaluation that wrote the metrics with this schema."""
    return (schema.metadata or {}).get(name.encode()) == _hash(path)


def write_stamped(table: pd.DataFrame, metadata: dict[bytes, bytes], path: Path) -> None:
    """Write the table as Parquet with these metadata added to its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(made.replace_schema_metadata({**made.schema.metadata, **metadata}), path)


def _hash(path: Path) -> bytes:
    return sha256_file(path).encode()
