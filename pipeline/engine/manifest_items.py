"""Make work items from the rows of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import ManifestError, PipelineError
from pipeline.io import sha256_file, sha256_json
from pipeline.manifest import mask_file, row_file
from pipeline.store.items import WorkItem

Row = dict[str, Any]


def select(manifest: pd.DataFrame, only: Collection[str] | None) -> pd.DataFrame:
    """Return the rows whose image_id is in `only`, in the order of the manifest; all for None.

    Raises:
        ManifestError: an id is not in the manifest; the first ones are named.
    """
    if only is None:
        return manifest
    wanted = set(only)
    unknown = sorted(wanted - set(manifest["image_id"]))
    if unknown:
        names = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise ManifestError(
            f"{len(unknown)} ids are not in the manifest: {names}",
            remedy="use ids of the image_id column of the manifest",
        )
    return manifest[manifest["image_id"].isin(wanted)]


def image_items(
    manifest: pd.DataFrame, data: str | Path, content: Callable[[Row], dict[str, Any]]
) -> list[WorkItem]:
    """Return one item per row of a manifest.

    Args:
        manifest: from `read_manifest`.
        data: folder with the images of the dataset.
        content: returns what decides the result of a row besides the bytes and the frame of the
            image; may add to the row what the mapper needs.

    Returns:
        Items whose key is a hash of content, never of names: copies of an image share it.
    """
    items = []
    for row in manifest.to_dict("records"):
        frame = int(row["frame"])
        key = sha256_json({"sha256": row["sha256"], "frame": frame, **content(row)})
        items.append(WorkItem(row["image_id"], key, row_file(row, data), frame, row))
    return items


def add_truth(row: Row, data: str | Path) -> str:
    """Set `row["truth_file"]` to the ground-truth file of a row ("" for none); return its digest.

    The digest of a file that cannot be read is its name: the row fails when it is loaded.
    """
    path = mask_file(row, data)
    row["truth_file"] = "" if path is None else path
    if path is None:
        return ""
    try:
        return sha256_file(path)
    except (PipelineError, OSError):
        return f"unreadable: {row['mask_path']}"
