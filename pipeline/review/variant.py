"""The variant `reviewed` of the masks: what a person drew, and the automatic mask elsewhere."""

from __future__ import annotations

from pipeline.config import Params
from pipeline.errors import StoreError
from pipeline.images import reader_rules
from pipeline.io import sha256_json
from pipeline.manifest import row_file
from pipeline.paths import Paths
from pipeline.review.edits import JUDGED, VARIANT, Edits
from pipeline.review.worklist import Worklist
from pipeline.segment.quality import mask_status
from pipeline.store import MaskRow, MaskStoreWriter, WorkItem

VERSION = 1
"""Incremented when the same corrections give other masks than before."""


def update_variant(dataset: str, params: Params, paths: Paths) -> int:
    """`write_variant` with the edits that are on the disk now, whether or not a page is open, for
    those who read the variant; nothing where nothing was ever reviewed."""
    if not paths.reviewed(dataset).is_dir():
        return 0
    edits = Edits(paths.reviewed(dataset))
    return write_variant(Worklist(dataset, params, paths, edits), params, paths)


def write_variant(work: Worklist, params: Params, paths: Paths) -> int:
    """Write the rows of cache/<dataset>/masks/reviewed/all.zarr that have changed.

    Returns:
        How many rows were written.

    Raises:
        StoreError: there are no automatic masks, or the store is being written.
    """
    edits, frame, store = work.edits, work.frame, work.store
    if store is None:
        path, remedy = paths.masks(work.dataset), f"run: pipeline segment --dataset {work.dataset}"
        raise StoreError("there are no automatic masks to correct", path=path, remedy=remedy)
    limits = {"min_area": params.segment.min_area, "max_area": params.segment.max_area}
    identity = {
        "stage": "review",
        "version": VERSION,
        "reader": reader_rules(params.images.shown),
        "automatic": store.identity,
        "status": limits,
    }
    table, judged, items = store.table().to_dict("index"), {}, []
    for row in frame.to_dict("records"):
        image_id, parts = row["image_id"], [row["sha256"], row["frame"]]
        edit = edits.of(image_id, row["sha256"])
        if edit is not None and edit.state in JUDGED:
            judged[image_id] = edit
            parts += ["edit", edit.text, edit.crc]
        elif row["auto"] != "missing":
            parts += ["automatic", *(str(table[image_id][n]) for n in ("key", "crc", "status"))]
        path = row_file(row, paths.data(work.dataset))
        items.append(WorkItem(image_id, sha256_json(parts), path, row["frame"], row))
    attrs = {"dataset": work.dataset, "not_reviewed": "the automatic mask, from masks.zarr"}
    choices = {"on_mismatch": "rebuild", "attrs": attrs}
    with MaskStoreWriter(paths.masks(work.dataset, VARIANT), identity, **choices) as writer:
        writer.sync_manifest(frame.reset_index(drop=True))
        plan = writer.plan(items)
        todo = plan.todo + plan.copies
        for item, _ in todo:
            image_id = item.image_id
            if edit := judged.get(image_id):
                mask = edits.mask(image_id)
                row = MaskRow(image_id, mask, mask_status(mask.mean(), **limits), edit.text)
            elif (mask := work.auto_mask(image_id)) is not None:
                of = table[image_id]
                scores = [float(of[n]) for n in ("predicted_iou", "stability")]
                row = MaskRow(image_id, mask, of["status"], of["prompt"], *scores)
            else:
                writer.write_failed(item, "not reviewed, and there is no automatic mask")
                continue
            writer.write([item], [row])
    return len(todo)
