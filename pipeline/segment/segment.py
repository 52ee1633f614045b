"""Stage 1, m = SAM2(x), for a whole dataset: cache/<dataset>/masks.zarr."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.config import Params, SegmentParams
from pipeline.devices import choose_device, choose_precision, model_cores
from pipeline.engine import RunRecord, run_stage
from pipeline.engine.from_manifest import Row, add_truth, image_items, select
from pipeline.manifest import read_manifest
from pipeline.models import Sam2ImagePredictor, load_sam2
from pipeline.paths import Paths
from pipeline.segment.mapper import SegmentMapper
from pipeline.segment.strategies import make_strategy
from pipeline.store import MaskStoreWriter

BATCH_SIZE = 16


def segment_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
    force: bool = False,
    on_mismatch: str = "refuse",
    predictor: Sam2ImagePredictor | None = None,
) -> RunRecord:
    """Compute the masks that cache/<dataset>/masks.zarr lacks.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `segment` and the profile's `sam2` are read.
        paths: the project folder.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images in one forward pass; masks do not depend on it.
        workers: loader threads.
        limit: at most so many new masks.
        only: ids to work on; default all.
        force: compute masks again that are there.
        on_mismatch: what to do when the store was made with other choices: "refuse" (an error with
            the difference) or "rebuild". `force` of all images implies "rebuild".
        predictor: a SAM2 that is loaded already, instead of the profile's.

    Returns:
        The record of the run, also written to cache/<dataset>/records/segment.json.

    Raises:
        ManifestError, ModelError, ConfigError, StoreError: nothing could be done; what to mend.
        StageFailed: more images failed than `segment.max_failed` allows; the others are done.
    """
    manifest = read_manifest(paths.manifest(dataset))
    chosen = select(manifest, only)
    mapper = (
        make_mapper(params, device)
        if predictor is None
        else SegmentMapper(params.segment, predictor)
    )
    if force and only is None and limit is None:
        on_mismatch = "rebuild"
    items = segment_items(chosen, paths.data(dataset), params.segment)
    with MaskStoreWriter(
        paths.masks(dataset),
        mapper.identity,
        on_mismatch=on_mismatch,
        attrs={"dataset": dataset},
    ) as writer:
        writer.sync_manifest(manifest)
        return run_stage(
            "segment",
            items,
            mapper,
            writer,
            dataset=dataset,
            record_path=paths.record(dataset, "segment"),
            batch_size=batch_size or BATCH_SIZE,
            cores=model_cores(mapper.sam.predictor.device.type) if mapper.sam else 1,
            workers=workers,
            limit=limit,
            force=force,
            max_failed=params.segment.max_failed,
            parameters={"profile": params.profile, "segment": params.segment.model_dump()},
        )


def make_mapper(params: Params, device: str = "auto") -> SegmentMapper:
    """Load the profile's SAM2, unless the strategy asks no model, and make the mapper."""
    if not make_strategy(params.segment).needs_model:
        return SegmentMapper(params.segment)
    return SegmentMapper(params.segment, load_predictor(params, device))


def load_predictor(params: Params, device: str = "auto") -> Sam2ImagePredictor:
    """Load the profile's SAM2 in the precision of `segment.precision`."""
    device = choose_device(device)
    precision = choose_precision(params.segment.precision, device)
    return load_sam2(params.models.sam2, device=device, precision=precision)


def segment_items(manifest, data: str | Path, params: SegmentParams):
    """Work items whose key has exactly what the strategy reads of a row.

    A strategy that reads the `box` column redoes an image whose box changed; one that does not,
    does not.
    """
    strategy = make_strategy(params)

    def content(row: Row) -> dict[str, Any]:
        decides: dict[str, Any] = {name: row[name] for name in strategy.columns}
        if strategy.mask_file:
            decides["truth"] = add_truth(row, data)
        return decides

    return image_items(manifest, data, content)
