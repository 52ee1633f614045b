"""Stage 1, m = SAM2(x), for a dataset: cache/<dataset>/masks.zarr."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pipeline.config import TIMM, Params, SegmentParams
from pipeline.engine.cluster import connected
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import image_items, run_stage, select
from pipeline.errors import ConfigError, StageFailed
from pipeline.images import read_image, read_mask, reader_rules
from pipeline.io import FileHashes
from pipeline.manifest import class_names, read_manifest
from pipeline.models import Sam2ImagePredictor, load_sam2
from pipeline.paths import Paths
from pipeline.segment.candidates import CandidateMapper, keep, stored_candidates
from pipeline.segment.embeddings import (
    EmbeddingMapper,
    key_of,
    same_embeddings,
    stored_embedding,
)
from pipeline.segment.guide import Guide, read_words
from pipeline.segment.predictor import BatchPredictor, CachedPredictor
from pipeline.segment.quality import component_count, is_blank, mask_status
from pipeline.segment.strategies import Strategy, strategy_class
from pipeline.store import (
    CandidateStore,
    EmbeddingStore,
    MaskRow,
    MaskStoreWriter,
    WorkItem,
    open_masks,
)

if TYPE_CHECKING:
    from pipeline.models import ClipModel  # slow to import

MAPPER_VERSION = 2
"""Incremented when the same model and parameters give other masks than before."""


def segment_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    predictor: Sam2ImagePredictor | None = None,
    clip: ClipModel | None = None,
    variant: str = "",
) -> RunRecord:
    """Compute the masks that cache/<dataset>/masks.zarr lacks.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `segment` and the profile's `sam2` are used; some strategies use its `clip`.
        paths: of the project folder.
        options: of this run.
        predictor, clip: loaded models, instead of those of the profile.
        variant: of the masks, which are kept beside those of the stage; see pipeline.adapt.

    Returns:
        The record of the run, also written to cache/<dataset>/records/segment.json.

    Raises:
        ManifestError, ModelError, ConfigError, StoreError: nothing could be done.
        StageFailed: more images failed than `segment.max_failed` allows, or all masks are empty;
            what was computed is kept.
        KeyboardInterrupt: SIGINT or SIGTERM was received; what was computed is kept.
    """
    manifest = read_manifest(paths.manifest(dataset))
    chosen, data = select(manifest, options.only), paths.data(dataset)
    models, hashes = (class_names(manifest), predictor, clip), FileHashes(paths.hashes(dataset))
    recipe = partial(build_mapper, dataset, params, paths, replace(options, only=None), *models)
    with connected(options) as pool:
        mapper = recipe()
        columns, truth = mapper.strategy.columns, mapper.strategy.uses_truth
        read = {"truth": truth, "hashes": hashes}
        items = image_items(chosen, data, lambda row: {n: row[n] for n in columns}, **read)
        choices = {"on_mismatch": options.on_store_mismatch, "attrs": {"dataset": dataset}}
        with MaskStoreWriter(paths.masks(dataset, variant), mapper.identity, **choices) as writer:
            writer.sync_manifest(manifest)
            if not variant and options.in_this_process and mapper.strategy.sam2:
                candidates, embeddings = mapper.strategy.keeps_candidates, params.segment.embeddings
                todo = []
                if candidates or embeddings:
                    todo = [item for item, _ in writer.plan(items, force=options.force).todo]
                todo, asked = todo[: options.limit], (dataset, manifest, paths, options, hashes)
                sam2 = mapper.strategy.sam2.predictor
                if todo and embeddings:
                    by_bytes = [replace(item, key=key_of(item.row)) for item in todo]
                    keep(EmbeddingMapper(sam2, mapper.window), by_bytes, *asked)
                mapper.embeddings = same_embeddings(dataset, paths, sam2, mapper.window)
                if todo and candidates:
                    keep(CandidateMapper(mapper), todo, *asked)
                    mapper.stored = CandidateStore(paths.candidates(dataset))
            given = items, mapper, writer, hashes, variant, recipe, pool
            record = run_stage("segment", dataset, params, paths, options, *given)
    table = open_masks(paths.masks(dataset, variant)).table()
    record.masks = table.loc[table["in_manifest"], "status"].value_counts().to_dict()
    useless = set(record.masks) - {"failed"} == {"empty"} and params.segment.max_failed < 1
    record.status = "failed" if useless else record.status
    record.write(paths.record(dataset, record.stage))
    if useless:
        what = f"segment {dataset}: all {record.masks['empty']} masks are empty"
        remedy = "look at images and boxes with `pipeline data preview`; try another segment.prompt"
        raise StageFailed(what, path=paths.masks(dataset, variant), remedy=remedy)
    return record


def build_mapper(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions,
    classes: Collection[str] = (),
    predictor: Sam2ImagePredictor | None = None,
    clip: ClipModel | None = None,
) -> SegmentMapper:
    """Return the mapper of `params.segment` for a dataset; models that its strategy needs and that
    are not given are those of the profile."""
    kind = strategy_class(params.segment)
    guide = find_guide(kind, dataset, params, paths, options, classes, clip)
    if predictor is None and kind.uses_sam2:
        predictor = load_predictor(params, options)
        if params.segment.runtime == "onnxruntime":
            from pipeline.models.onnx_encoder import onnxruntime_for_sam2

            onnxruntime_for_sam2(predictor)
    return SegmentMapper(params.segment, predictor, params.images.shown, guide)


def find_guide(
    kind: type[Strategy],
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions,
    classes: Collection[str] = (),
    clip: ClipModel | None = None,
) -> Guide | None:
    """Return the words of a dataset, which name none of `classes`, and the profile's CLIP, as far
    as a strategy uses them."""
    if not kind.uses_words:
        return None
    words = read_words(paths.prompts, dataset, classes)
    if kind.uses_clip and clip is None:
        if params.models.clip.name.startswith(TIMM):
            remedy = "choose a CLIP as `clip` of the profile, or another segment.prompt"
            raise ConfigError(f"{kind.name} needs a CLIP, and timm has no texts", remedy=remedy)
        from pipeline.models import load_clip  # slow to import

        clip = load_clip(params.models.clip, **options.model_options(params.segment.precision))
    return Guide(words, clip if kind.uses_clip else None)


def load_predictor(params: Params, options: RunOptions) -> Sam2ImagePredictor:
    """Load the profile's SAM2 on the device of the run."""
    return load_sam2(params.models.sam2, **options.model_options(params.segment.precision))


class SegmentMapper:
    """m = SAM2(x) as a mapper of the engine; strategies without a model need no predictor. `window`
    is that of `read_image`."""

    def __init__(
        self,
        params: SegmentParams,
        predictor: Sam2ImagePredictor | None = None,
        window: tuple[float, float] | None = None,
        guide: Guide | None = None,
    ):
        kind = strategy_class(params)
        sam2 = predictor if kind.uses_sam2 else None
        self.params, self.window = params, window
        self.strategy = kind(params, sam2 and BatchPredictor(sam2), guide)
        self.device = sam2.device.type if sam2 else ""
        self.stored: CandidateStore | None = None
        self.embeddings: EmbeddingStore | None = None
        self.identity: dict[str, Any] = {
            "stage": "segment",
            "mapper_version": MAPPER_VERSION,
            "reader": reader_rules(window),
            "model": sam2
            and {n: getattr(sam2, n) for n in ("fingerprint", "precision", "mask_threshold")},
            "prompt": self.strategy.fingerprint(),
            "status": {"min_area": params.min_area, "max_area": params.max_area},
        }

    def load(self, item: WorkItem) -> tuple[Any, bool]:
        """Read and preprocess an image, or return its stored candidates."""
        if self.stored and (found := stored_candidates(self.stored, item)):
            return found
        image = read_image(item.path, item.frame, window=self.window)
        return self.prepare(image, item.row, stored_embedding(self.embeddings, item.row))

    def prepare(
        self, image: np.ndarray, row: Mapping[str, Any], maps: list[Tensor] | None = None
    ) -> tuple[Any, bool]:
        """Preprocess an image and what its strategy uses of a row of the manifest; return what the
        strategy made of it, and whether it is blank. `maps` are its embedding, if that is known."""
        # No label, split, path or id: a mask must not depend on the class, which folders name too.
        columns = {name: row[name] for name in self.strategy.columns}
        truth = None
        if self.strategy.uses_truth and row["truth_file"]:
            truth = read_mask(row["truth_file"], int(row["frame"]), shape=image.shape[:2])
        strategy = self.strategy
        if maps:  # in the place of the whole image, wherever the strategy asks for that
            strategy = copy(strategy)
            strategy.sam2 = CachedPredictor(strategy.sam2.predictor, [(image, maps)])
        return strategy.prepare(image, columns, truth), is_blank(image)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[tuple[Any, bool]]) -> list[MaskRow]:
        """Find the masks of a batch, with their quality columns and their status."""
        rows = []
        segmented = self.strategy.segment([prepared for prepared, _ in loaded])
        for item, (_, blank), found in zip(items, loaded, segmented, strict=True):
            if blank:  # whatever the model says
                none = np.zeros_like(found.mask)
                row = MaskRow(item.image_id, none, "empty", found.prompt, reason="blank")
                rows.append(replace(row, components=0))
                continue
            area = float(found.mask.mean())
            status = mask_status(area, self.params.min_area, self.params.max_area)
            reason = "" if status == "ok" else f"mask {status}: {area:.2%} of the image"
            row = replace(found, image_id=item.image_id, status=status, reason=reason)
            rows.append(replace(row, components=component_count(found.mask)))
        return rows
