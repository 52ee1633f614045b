"""runs.parquet, predictions.parquet and heads/: written whole, and read back as the cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.heads.saved import SavedHead, cell_key, load_heads, read_tensors, save_heads
from pipeline.io import atomic_write
from pipeline.training.cell import Fit
from pipeline.training.pairing import RUN_COLUMNS, paired, pairing

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.paths import Paths


def order(fit: Fit) -> tuple:
    """Return what runs and predictions are sorted by."""
    return fit.protocol, fit.head, fit.view, fit.fraction, fit.seed


def write_outputs(
    dataset: str,
    paths: Paths,
    fits: list[Fit],
    test_ids: dict[tuple, np.ndarray],
    labels: dict[str, int],
    classes: list[str],
    features: dict[str, Any],
) -> None:
    """Replace the three outputs. runs.parquet takes its place last: it dates the other two.

    Args:
        fits: all fits of the run, reused ones included.
        test_ids: the test images by `Fit.where`.
        labels: class number by image_id.
        classes: class names.
        features: identity of the feature store.

    Raises:
        DiskError: one of them cannot be written.
    """
    fits = sorted(fits, key=order)
    folder = paths.heads(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted({fit.head for fit in fits})
    for name in names:
        saved = [
            SavedHead(
                fit.where,
                fit.tensors,
                fit.config,
                {"n_train": fit.n_train, "n_val": fit.n_val, "digest": fit.fit_digest},
            )
            for fit in fits
            if fit.head == name and fit.status == "ok"
        ]
        save_heads(folder, name, classes, saved, features)
    for path in folder.iterdir():  # heads that params.yaml no longer names
        ours = path.suffix in (".json", ".safetensors") and not path.name.startswith("partial-")
        if ours and path.stem not in names:
            path.unlink()
    runs = pd.DataFrame([{c: getattr(fit, c) for c in RUN_COLUMNS} for fit in fits])
    runs["val_score"] = runs["val_score"].astype("float64")
    with atomic_write(paths.runs(dataset)) as partial:
        runs.to_parquet(partial, index=False)
        # Within, so that next to nothing comes between the replacements of the two.
        path, metadata = paths.predictions(dataset), pairing(runs, features)
        _write_predictions(path, fits, test_ids, labels, classes, metadata)


def _write_predictions(
    path: Path,
    fits: list[Fit],
    test_ids: dict[tuple, np.ndarray],
    labels: dict[str, int],
    classes: list[str],
    metadata: dict[bytes, bytes],
) -> None:
    """Write one row group for each protocol, head and view, so that a filter reads only that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    all_ids = np.array(sorted({i for ids in test_ids.values() for i in ids}), dtype=object)
    true = np.array([labels[i] for i in all_ids], dtype=np.int32)
    words = {
        column: sorted({getattr(fit, column) for fit in fits})
        for column in ("protocol", "head", "view")
    }
    done = [fit for fit in fits if fit.proba is not None]
    blocks: dict[tuple, list[Fit]] = {}
    for fit in done:
        blocks.setdefault((fit.protocol, fit.head, fit.view), []).append(fit)

    def coded(values: list[str], codes: np.ndarray) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, type=pa.int32()), pa.array(values, type=pa.string())
        )

    def table(block: list[Fit]) -> pa.Table:
        sizes = [len(fit.proba) for fit in block]
        rows = np.concatenate([np.searchsorted(all_ids, test_ids[fit.where]) for fit in block])
        proba = np.concatenate([fit.proba for fit in block])
        columns: dict[str, pa.Array] = {}
        for column in ("protocol", "head", "view"):
            code = words[column].index(getattr(block[0], column))
            columns[column] = coded(words[column], np.full(len(rows), code, dtype=np.int32))
        fractions = np.repeat([fit.fraction for fit in block], sizes)
        columns["fraction"] = pa.array(fractions.astype(np.float32))
        columns["seed"] = pa.array(np.repeat([fit.seed for fit in block], sizes).astype(np.int16))
        columns["image_id"] = coded(list(all_ids), rows)
        columns["y_true"] = coded(classes, true[rows])
        columns["y_pred"] = coded(classes, proba.argmax(axis=1))
        for number, name in enumerate(classes):
            columns[f"p:{name}"] = pa.array(np.ascontiguousarray(proba[:, number]))
        return pa.table(columns)

    empty = Fit("", "", "", 0.0, 0, 0, 0, 0, "", "", proba=np.zeros((0, len(classes)), np.float32))
    if not blocks:
        words = {"protocol": [""], "head": [""], "view": [""]}
        test_ids = {**test_ids, empty.where: np.array([], dtype=object)}
        blocks = {("", "", ""): [empty]}
    with atomic_write(path) as partial:
        writer = None
        for block in blocks.values():
            part = table(block)
            schema = part.schema.with_metadata(metadata)
            writer = writer or pq.ParquetWriter(partial, schema, compression="zstd")
            writer.write_table(part)
        writer.close()


def read_outputs(
    dataset: str, paths: Paths, wanted: dict[str, Fit], test_ids: dict[tuple, np.ndarray]
) -> list[Fit]:
    """Return those of the wanted fits that an earlier run left in good order.

    Args:
        wanted: unfinished fits by `digest`; the ones found come back finished.
        test_ids: the test images by `Fit.where`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        runs = pd.read_parquet(paths.runs(dataset), columns=list(RUN_COLUMNS))
        ok = runs[runs["status"] == "ok"].reset_index(drop=True)
        if not ok["digest"].isin(set(wanted)).any():
            return []
        table = pq.read_table(paths.predictions(dataset))
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return []
    starts = np.concatenate([[0], np.cumsum(ok["n_test"].to_numpy())])
    if not paired(runs, table.schema) or starts[-1] != len(table):
        return []
    ids = table["image_id"].to_pandas().astype(str).to_numpy(dtype=object)
    scores = [table[c].to_numpy() for c in table.column_names if c.startswith("p:")]
    found: list[Fit] = []
    for name, rows in ok.groupby("head", sort=True):
        mine = [(n, wanted[d]) for n, d in rows["digest"].items() if d in wanted]
        try:
            _, cells = load_heads(paths.heads(dataset), name)
            keys = {cell_key(*fit.where): fit for _, fit in mine}
            fresh = [k for k, f in keys.items() if cells.get(k, {}).get("digest") == f.fit_digest]
            tensors = read_tensors(paths.heads(dataset), name, fresh)
        except (PipelineError, OSError, ValueError, KeyError):
            continue
        for n, fit in mine:
            key = cell_key(*fit.where)
            here = slice(starts[n], starts[n + 1])
            if key not in tensors or not np.array_equal(ids[here], test_ids[fit.where]):
                continue
            fit.proba = np.stack([s[here] for s in scores], axis=1)
            fit.tensors, fit.config = tensors[key], cells[key]["config"]
            fit.chosen = ok["chosen"][n]
            score = ok["val_score"][n]
            fit.val_score = None if pd.isna(score) else float(score)
            found.append(fit)
    return found
