"""What SAM2 proposes for the images of a dataset, ranked: cache/<dataset>/candidates.zarr.

`auto` and `union` choose among the same candidates. They are stored, so that another choice needs
neither SAM2 nor the images again; the masks are those that the strategy finds without the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import BATCH_SIZE, LocalExecutor, run_items
from pipeline.io import FileHashes
from pipeline.paths import Paths
from pipeline.segment.strategies import Candidates
from pipeline.store import CandidateRow, CandidateStore, CandidateStoreWriter, WorkItem

if TYPE_CHECKING:
    from pipeline.segment.embeddings import EmbeddingMapper
    from pipeline.segment.segment import SegmentMapper

MAPPER_VERSION = 1
"""Incremented when the same model and parameters give other candidates than before."""


class CandidateMapper:
    """Images to their candidates, as a mapper of the engine, with the model of a `SegmentMapper`
    whose strategy keeps candidates; `writer` is that of their store."""

    def __init__(self, mapper: SegmentMapper):
        self.load, self.device, self.strategy = mapper.load, mapper.device, mapper.strategy
        self.writer = partial(CandidateStoreWriter, most=mapper.strategy.most)
        own = {"stage": "candidates", "mapper_version": MAPPER_VERSION}
        own |= {"prompt": mapper.strategy.proposal()}
        self.identity = {n: v for n, v in (mapper.identity | own).items() if n != "status"}

    def map(self, items: Sequence[WorkItem], loaded: Sequence[Any]) -> list[CandidateRow]:
        """Return the candidates of a batch; a blank image has none, whatever the model says."""
        rows = []
        found = self.strategy.candidates([prepared for prepared, _ in loaded])
        for item, (_, blank), one in zip(items, loaded, found, strict=True):
            height, width = one.size
            figures = np.stack([one.scores, one.ious, one.stability], axis=1)
            figures = figures[: 0 if blank else None]
            packed = np.zeros((len(figures), height, -(-width // 8)), np.uint8)
            for k in range(len(figures)):  # one at a time, since images may be large
                packed[k] = np.packbits(one.masks([k])[0], axis=1)
            status = "ok" if len(figures) else "empty"
            reason = "blank" if blank else ""
            rows.append(CandidateRow(item.image_id, packed, width, figures, status, reason))
        return rows


def keep(
    own: CandidateMapper | EmbeddingMapper,
    items: Sequence[WorkItem],
    dataset: str,
    manifest: pd.DataFrame,
    paths: Paths,
    options: RunOptions,
    hashes: FileHashes,
) -> None:
    """Compute what of `items` a store beside the masks lacks, with the mapper `own`.

    A store of another identity is refused or replaced as `options` says; one of the same identity
    is used again even with `force`, which is how another prompt is asked for: rows that are lost or
    damaged are computed again, and who distrusts the rest deletes the store. An image that fails
    here fails again, with its reason, where masks are made.
    """
    mismatch = "refuse" if options.on_store_mismatch == "refuse" else "rebuild"
    choices = {"on_mismatch": mismatch, "attrs": {"dataset": dataset}}
    stage = own.identity["stage"]
    with own.writer(getattr(paths, stage)(dataset), own.identity, **choices) as writer:
        writer.sync_manifest(manifest)
        executor = LocalExecutor(options.batch_size or BATCH_SIZE, options.workers, hashes=hashes)
        record, place = RunRecord(stage, dataset), paths.record(dataset, stage)
        given = replace(options, force=False)
        how = {"max_failed": 1.0, "executor": executor}
        run_items(record, place, items, lambda: own, writer, given, **how)


def stored_candidates(store: CandidateStore, item: WorkItem) -> tuple[Candidates, bool] | None:
    """Return the candidates of an image, and whether it is blank; None where the store has none of
    these bytes."""
    row = store.frame.loc[item.image_id] if item.image_id in store else None
    if row is None or row["key"] != item.key or row["status"] == "failed":
        return None
    size, figures = (int(row["height"]), int(row["width"])), store.figures(item.image_id).T
    masks = lambda ranks: store[item.image_id][list(ranks)]  # noqa: E731  not held before
    return Candidates(size, *figures, masks), row["reason"] == "blank"
