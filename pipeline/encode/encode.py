"""Stage 2, I = E_v(x * m) and T = E_t(t), for a dataset: cache/<dataset>/features.zarr."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import TIMM, EncodeParams, Params
from pipeline.encode.mapper import EncodeMapper
from pipeline.encode.text import check_length, load_prompts, text_identity
from pipeline.engine.cluster import connected
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import BATCH_SIZE, image_items, run_stage, select
from pipeline.errors import StoreError
from pipeline.io import FileHashes
from pipeline.manifest import class_names, read_manifest
from pipeline.models import ClipModel, TimmEncoder, load_clip, load_timm
from pipeline.paths import Paths
from pipeline.remote import exists
from pipeline.store import (
    FeatureRow,
    FeatureStoreWriter,
    MaskStore,
    WorkItem,
    open_features,
    open_masks,
)
from pipeline.store.items import canonical, table_rows

UNMASKED = ("whole", "oracle", "trunk")
"""Views that do not depend on the mask that was found."""


def encode_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    clip: ClipModel | TimmEncoder | None = None,
    variant: str = "",
) -> RunRecord:
    """Encode the images and prompts that cache/<dataset>/features.zarr lacks.

    Prompts have an identity of their own: a changed template encodes the texts again and no image.
    An encoder without texts reads no prompts.
    An image without a mask of its current bytes fails; it is never treated as one with an empty
    mask.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `encode` and the profile's `clip` are used.
        paths: of the project folder.
        options: of this run; `batch_size` is also the number of views per forward pass.
        clip: a loaded encoder, instead of the one of the profile.
        variant: of the masks, and its part (`lora-16/0`): the views that the masks decide are
            encoded with these, in a store of their own.

    Returns:
        The record of the run, also written to cache/<dataset>/records/encode.json.

    Raises:
        ManifestError, PromptError, ModelError, ConfigError, StoreError: nothing could be done.
        StageFailed: more images failed than `encode.max_failed` allows; the others are done.
    """
    options = replace(options, batch_size=options.batch_size or BATCH_SIZE)
    section, made_with = params.encode, {}
    if variant:
        views = tuple(view for view in section.views if view not in UNMASKED)
        section = section.model_copy(update={"views": views})
    manifest = read_manifest(paths.manifest(dataset))
    chosen = select(manifest, options.only)
    masks = open_masks(paths.masks(dataset, variant))
    if variant:
        made_with = {"masks": adapter_of(masks, dataset)}
    hashes = FileHashes(paths.hashes(dataset))
    items = encode_items(chosen, paths.data(dataset), masks, section.views, hashes)
    prompts = None
    if clip.has_text if clip else not params.models.clip.name.startswith(TIMM):
        prompts = load_prompts(paths.prompts, dataset, class_names(manifest))
        if prompts.unused:
            text = f"encode {dataset}: prompts for classes that it does not have: "
            print(text + ", ".join(prompts.unused), file=sys.stderr, flush=True)
    recipe = partial(make_mapper, params, section, replace(options, only=None), masks, clip)
    with connected(options) as pool:
        clip = clip or load_encoder(params, options)
        if prompts:
            check_length(prompts, clip.count_tokens, clip.context_length)
        mapper = make_mapper(params, section, options, masks, clip)
        with FeatureStoreWriter(
            paths.features(dataset, variant),
            mapper.identity | made_with,
            views=section.views,
            dim=clip.embed_dim,
            pooled=mapper.pooled,
            pooled_dim=mapper.pooled_dim,
            tokens=clip.tokens if section.tokens else 0,
            on_mismatch=options.on_store_mismatch,
            attrs={"dataset": dataset},
        ) as writer:
            writer.sync_manifest(manifest)
            identity = prompts and text_identity(prompts, clip.fingerprint, clip.precision)
            if writer.text_identity != identity:
                features = clip.encode_text(prompts.flat()).cpu().numpy()
                writer.set_text(
                    features.reshape(len(prompts.texts), len(prompts.templates), -1),
                    classes=list(prompts.texts),
                    templates=prompts.templates,
                    identity=identity,
                    prompts=prompts.texts,
                )
            if masks.identity.get("stage") == "review" and not options.force:
                copy_features(paths.features(dataset), writer, items, mapper)
            given = items, mapper, writer, hashes, variant, recipe, pool
            return run_stage("encode", dataset, params, paths, options, *given)


def make_mapper(
    params: Params,
    section: EncodeParams,
    options: RunOptions,
    masks: MaskStore,
    clip: ClipModel | TimmEncoder | None = None,
) -> EncodeMapper:
    """Return the mapper of a section `encode`, with the profile's encoder if none is given."""
    choices = {"forward_batch": options.batch_size, "window": params.images.shown}
    return EncodeMapper(section, clip or load_encoder(params, options), masks, **choices)


def copy_features(
    base: Path, writer: FeatureStoreWriter, items: list[WorkItem], mapper: EncodeMapper
) -> None:
    """Copy what the store `base` has of the same images with the same masks, model and rules,
    so that of masks corrected by a person only those that were changed are encoded."""
    if not exists(base):
        return
    store, new = open_features(base), canonical(mapper.identity)
    old, rules, views = store.identity, new.pop("view_rules", {}), new.pop("views")
    known = {view: rule for view, rule in old.get("view_rules", {}).items() if view in views}
    alike = known == rules and all(old.get(name) == value for name, value in new.items())
    if not alike or not set(views) <= set(store.views):
        return
    others = store.attrs.get("pooled_views", [])
    frames = [view for view in store.views if view not in others]
    at = [frames.index(view) for view in mapper.frames]
    pooled_at = [others.index(view) for view in mapper.pooled]
    rows = store.table().to_dict("index")
    for item, _ in writer.plan(items).todo:
        row, mask = rows.get(item.image_id), item.row["mask"]
        names = ("status", "sha256", "mask_status", "mask_crc")
        wanted = mask and ("ok", item.row["sha256"], mask["status"], mask["crc"])
        if row is None or tuple(row[name] for name in names) != wanted:
            continue
        with suppress(StoreError):  # what is lost there is encoded
            data = store.read(item.image_id)
            more = {"tokens": data["tokens"][at]} if "tokens" in data else {}
            more |= {"pooled": data["pooled_features"][pooled_at]} if pooled_at else {}
            more |= {"mask_status": mask["status"], "mask_crc": mask["crc"]}
            features = data["image_features"][at]
            copied = FeatureRow(item.image_id, features, reason=row["reason"], **more)
            writer.write([item], [copied])
    writer.commit()


def adapter_of(masks: MaskStore, dataset: str) -> dict[str, Any]:
    """Return what the identity of a variant's masks says of their adapter, which has learned from
    no image if a person corrected them; StoreError if they are of another dataset, or neither."""
    if masks.identity.get("stage") == "review":
        about = {"dataset": masks.attrs.get("dataset"), "images": []}
    else:
        model = masks.identity.get("model") or {}
        about = model.get("fingerprint", {}).get("adapter", {})
    if about.get("dataset") != dataset:
        message = f"masks of {about.get('dataset', 'no adapter')}, not of {dataset}"
        raise StoreError(
            message, path=masks.path, remedy=f"run: pipeline adapt --dataset {dataset}"
        )
    return about


def parts_of_variant(dataset: str, variant: str, paths: Paths) -> list[str]:
    """Return the parts of a variant of the masks (lora-16/0, ...), sorted; StoreError for none."""
    folder = paths.masks(dataset, variant).with_suffix("")
    names = sorted(path.stem for path in folder.glob("[!.]*.zarr"))
    if not names:
        known = sorted(path.name for path in folder.parent.glob("[!.]*/"))
        remedy = f"use one of {', '.join(known)}, or run: pipeline adapt --dataset {dataset}"
        raise StoreError("there is no such variant of the masks", path=folder, remedy=remedy)
    return [f"{variant}/{name}" for name in names]


def encode_items(
    manifest: pd.DataFrame,
    data: Path,
    masks: MaskStore,
    views: Collection[str],
    hashes: FileHashes,
) -> list[WorkItem]:
    """Return an item for `EncodeMapper` of each row of a manifest; `data` is the folder of the
    images. The mask, and of the oracle view the ground truth, are in the key."""
    table = masks.table()[["status", "reason", "sha256", "crc", "area"]]
    stored = dict(zip(table.index, table_rows(table), strict=True))
    manifest = manifest.assign(mask=manifest["image_id"].map(stored.get).astype(object))

    def mask_of(row: Mapping[str, Any]) -> dict[str, Any]:
        if (mask := row["mask"]) is None:
            return {"mask": None}
        return {"mask": [int(mask["crc"]), int(mask["area"]), mask["status"]]}

    return image_items(manifest, data, mask_of, truth="oracle" in views, hashes=hashes)


def load_encoder(params: Params, options: RunOptions) -> ClipModel | TimmEncoder:
    """Load the profile's CLIP, or the timm model in its place, on the device of the run."""
    spec = params.models.clip
    load = load_timm if spec.name.startswith(TIMM) else load_clip
    clip = load(spec, **options.model_options(params.encode.precision))
    if params.encode.runtime == "onnxruntime":
        from pipeline.models.onnx_encoder import onnxruntime_for_clip

        onnxruntime_for_clip(clip)
    return clip
