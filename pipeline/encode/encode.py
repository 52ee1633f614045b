"""Stage 2, I = E_v(x * m) and T = E_t(t), for a dataset: cache/<dataset>/features.zarr."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Params
from pipeline.encode.mapper import EncodeMapper
from pipeline.encode.text import Prompts, check_length, load_prompts, text_identity
from pipeline.encode.views import check_views
from pipeline.engine import RunOptions, RunRecord, WorkItem, run_stage
from pipeline.engine.devices import choose_device, choose_precision
from pipeline.engine.manifest_items import Row, add_truth, image_items, select
from pipeline.manifest import class_names, read_manifest
from pipeline.models import ClipModel, load_clip
from pipeline.paths import Paths
from pipeline.store import FeatureStoreWriter, open_masks

BATCH_SIZE = 16
USABLE = ("ok", "empty", "full")
"""Statuses of masks that views can be made of."""


def encode_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions | None = None,
    *,
    clip: ClipModel | None = None,
) -> RunRecord:
    """Encode the images and prompts that cache/<dataset>/features.zarr lacks.

    Prompts have an identity of their own: a changed template encodes the texts again and no image.
    An image without a mask of its current bytes fails; it is never treated as one with an empty
    mask.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `encode` and the profile's `clip` are used.
        paths: of the project folder.
        options: of this run; `batch_size` is also the number of views per forward pass.
        clip: a loaded CLIP, instead of the one of the profile.

    Returns:
        The record of the run, also written to cache/<dataset>/records/encode.json.

    Raises:
        ManifestError, PromptError, ModelError, ConfigError, StoreError: nothing could be done; the
            message says what to change.
        StageFailed: more images failed than `encode.max_failed` allows; the others are done.
    """
    options = options or RunOptions()
    options = replace(options, batch_size=options.batch_size or BATCH_SIZE)
    section = params.encode
    manifest = read_manifest(paths.manifest(dataset))
    chosen = select(manifest, options.only)
    check_views(section.views)
    prompts = load_prompts(paths.prompts, dataset, class_names(manifest))
    masks = open_masks(paths.masks(dataset))
    items = encode_items(chosen, paths.data(dataset), masks.table(), dataset, section.views)
    clip = clip or load_encoder(params, options)
    check_length(prompts, clip.count_tokens, clip.context_length)
    mapper = EncodeMapper(section, clip, masks, forward_batch=options.batch_size)
    with FeatureStoreWriter(
        paths.features(dataset),
        mapper.identity,
        views=mapper.views,
        dim=clip.embed_dim,
        tokens=clip.tokens if section.tokens else 0,
        on_mismatch=options.on_store_mismatch,
        attrs={"dataset": dataset},
    ) as writer:
        writer.sync_manifest(manifest)
        write_text(writer, prompts, clip)
        return run_stage(
            "encode",
            items,
            lambda: mapper,
            writer,
            options,
            dataset=dataset,
            record_path=paths.record(dataset, "encode"),
            max_failed=section.max_failed,
            parameters={"profile": params.profile, "encode": section.model_dump()},
        )


def load_encoder(params: Params, options: RunOptions) -> ClipModel:
    """Load the profile's CLIP on the device of the run."""
    device = choose_device(options.device)
    precision = choose_precision(params.encode.precision, device)
    return load_clip(params.models.clip, device=device, precision=precision)


def encode_items(
    manifest: pd.DataFrame,
    data: str | Path,
    masks: pd.DataFrame,
    dataset: str,
    views: Collection[str],
) -> list[WorkItem]:
    """Return work items whose key contains image, mask and, for `oracle`, ground truth.

    Args:
        manifest: rows to encode.
        data: folder with the images of the dataset.
        masks: table of the mask store, by image_id.
        dataset: for the remedy.
        views: of params.yaml.
    """
    columns = masks[["status", "reason", "sha256", "crc", "area"]].to_dict("index")
    remedy = f"pipeline segment --dataset {dataset}"

    def content(row: Row) -> dict[str, Any]:
        mask = columns.get(row["image_id"])
        row["mask_problem"] = mask_problem(mask, row["sha256"])
        row["mask_remedy"] = remedy
        row["mask_status"] = "" if row["mask_problem"] else mask["status"]
        row["truth_file"] = ""
        used: dict[str, Any] = {"mask": None}
        if not row["mask_problem"]:
            row["mask_crc"] = int(mask["crc"])
            used["mask"] = [row["mask_crc"], int(mask["area"]), mask["status"]]
        if "oracle" in views:
            used["truth"] = add_truth(row, data)
        return used

    return image_items(manifest, data, content)


def mask_problem(mask: dict[str, Any] | None, sha256: str) -> str:
    """Return why a row of the mask store cannot be used for an image; "" if it can.

    Args:
        mask: the row; None if the store has none.
        sha256: of the image.
    """
    if mask is None:
        return "it has no mask yet"
    if mask["status"] not in USABLE:
        return f"its mask failed ({mask['reason'] or mask['status']})"
    if mask["sha256"] != sha256:
        return "its mask was made of other image bytes"
    return ""


def write_text(writer: FeatureStoreWriter, prompts: Prompts, clip: ClipModel) -> None:
    """Encode the prompts, unless the store has the features of exactly these."""
    identity = text_identity(prompts, clip.fingerprint, clip.precision)
    if writer.text_identity == identity:
        return
    features = clip.encode_text(prompts.flat()).cpu().numpy()
    writer.set_text(
        features.reshape(len(prompts.classes), len(prompts.templates), -1),
        classes=prompts.classes,
        templates=prompts.templates,
        identity=identity,
        prompts=prompts.by_class(),
    )
