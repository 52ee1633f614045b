"""Stage 2, I = E_v(x * m) and T = E_t(t), for a whole dataset: cache/<dataset>/features.zarr."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Params
from pipeline.devices import choose_device, choose_precision, model_cores
from pipeline.encode.mapper import EncodeMapper
from pipeline.encode.text import Prompts, check_length, load_prompts, text_identity
from pipeline.encode.views import check_views
from pipeline.engine import RunRecord, WorkItem, run_stage
from pipeline.engine.from_manifest import Row, add_truth, image_items, select
from pipeline.manifest import class_names, read_manifest
from pipeline.models import ClipModel, load_clip
from pipeline.paths import Paths
from pipeline.store import FeatureStoreWriter, open_masks

BATCH_SIZE = 16
USABLE = ("ok", "empty", "full")


def encode_dataset(
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
    clip: ClipModel | None = None,
) -> RunRecord:
    """Encode the images and prompts that cache/<dataset>/features.zarr lacks.

    Prompts have an identity of their own: a changed template encodes the texts again, and no image.
    An image without a mask of its present bytes fails; it is never taken for one with an empty
    mask.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `encode` and the profile's `clip` are read.
        paths: the project folder.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images read at once and pictures in one forward pass; features do not depend
            on it.
        workers: loader threads.
        limit: at most so many new images.
        only: ids to work on; default all.
        force: encode images again that are there.
        on_mismatch: what to do when the store was made with other choices: "refuse" (an error with
            the difference) or "rebuild". `force` of all images implies "rebuild".
        clip: a CLIP that is loaded already, instead of the profile's.

    Returns:
        The record of the run, also written to cache/<dataset>/records/encode.json.

    Raises:
        ManifestError, PromptError, ModelError, ConfigError, StoreError: nothing could be done.
        StageFailed: more images failed than `encode.max_failed` allows; the others are done.
    """
    manifest = read_manifest(paths.manifest(dataset))
    chosen = select(manifest, only)
    check_views(params.encode.views)
    prompts = load_prompts(paths.prompts, dataset, class_names(manifest))
    masks = open_masks(paths.masks(dataset))
    items = encode_items(chosen, paths.data(dataset), masks.table(), dataset, params.encode.views)
    if clip is None:
        device = choose_device(device)
        precision = choose_precision(params.encode.precision, device)
        clip = load_clip(params.models.clip, device=device, precision=precision)
    check_length(prompts, clip.count_tokens, clip.context_length)
    batch_size = batch_size or BATCH_SIZE
    if force and only is None and limit is None:
        on_mismatch = "rebuild"
    mapper = EncodeMapper(params.encode, clip, masks, forward_batch=batch_size)
    with FeatureStoreWriter(
        paths.features(dataset),
        mapper.identity,
        views=mapper.views,
        dim=clip.embed_dim,
        tokens=clip.tokens if params.encode.tokens else 0,
        on_mismatch=on_mismatch,
        attrs={"dataset": dataset},
    ) as writer:
        writer.sync_manifest(manifest)
        put_text(writer, prompts, clip)
        return run_stage(
            "encode",
            items,
            mapper,
            writer,
            dataset=dataset,
            record_path=paths.record(dataset, "encode"),
            batch_size=batch_size,
            cores=model_cores(mapper.clip.device.type),
            workers=workers,
            limit=limit,
            force=force,
            max_failed=params.encode.max_failed,
            parameters={"profile": params.profile, "encode": params.encode.model_dump()},
        )


def encode_items(
    manifest: pd.DataFrame,
    data: str | Path,
    masks: pd.DataFrame,
    dataset: str,
    views: Collection[str],
) -> list[WorkItem]:
    """Work items whose key has the image, its mask's checksum and, for `oracle`, the truth's.

    Args:
        manifest: rows to encode.
        data: folder of the dataset's images.
        masks: index of the mask store, by image_id.
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
        decides: dict[str, Any] = {"mask": None}
        if not row["mask_problem"]:
            row["mask_crc"] = int(mask["crc"])
            decides["mask"] = [row["mask_crc"], int(mask["area"]), mask["status"]]
        if "oracle" in views:
            decides["truth"] = add_truth(row, data)
        return decides

    return image_items(manifest, data, content)


def mask_problem(mask: dict[str, Any] | None, sha256: str) -> str:
    """Why a row of the mask store cannot be used for an image of these bytes; "" if it can."""
    if mask is None:
        return "it has no mask yet"
    if mask["status"] not in USABLE:
        return f"its mask failed ({mask['reason'] or mask['status']})"
    if mask["sha256"] != sha256:
        return "its mask was made of other image bytes"
    return ""


def put_text(writer: FeatureStoreWriter, prompts: Prompts, clip: ClipModel) -> None:
    """Encode the prompts if the store has none, or others."""
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
