"""The frames that CLIP is shown, as pixels, for learners that train on the images themselves.

    cache/<dataset>/pixels/<view>-<size>.u8      one frame after the other, uint8 (rows, s, s, 3)
    cache/<dataset>/pixels/<view>-<size>.keys    what decides all frames (JSON); a key for each row

They are made by `EncodeMapper`: the same readers, masks, views and geometry as of the stored
features, at any size. Frames are appended, and keys are written once their frames are on the disk:
what a killed process leaves are the frames with a key. A key is that of `encode` (bytes of the
image, frame, mask, ground truth), so copies share a frame and a changed image or mask gets a new
one. Under other rules the file is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pandas as pd

from pipeline.config import EncodeParams, ModelSpec, Params
from pipeline.encode.encode import encode_items
from pipeline.encode.mapper import EncodeMapper
from pipeline.encode.views import VIEWS
from pipeline.engine.progress import show_progress
from pipeline.engine.run import BATCH_SIZE, LocalExecutor
from pipeline.errors import ConfigError, PipelineError, StoreError, reason_of
from pipeline.images import reader_rules
from pipeline.io import FileHashes, ProcessLock, atomic_write_text, writing
from pipeline.paths import Paths
from pipeline.store import FeatureStore, WorkItem, open_masks
from pipeline.store.items import canonical


@dataclass(frozen=True)
class Pixels:
    """Frames of n images, uint8 (n, size, size, 3), read from their file as they are asked for.

    Attributes:
        source: the file, or an array of frames.
        size: side of a frame, pixels.
        rows: row of each image in the source, int64 (n,); -1 if the image has no such view.
        keys: what decides each frame besides the rules, (n,) text.
        spec, fingerprint: the CLIP that the stored features are of, for `load_clip_again`.
    """

    source: Path | np.ndarray
    size: int
    rows: np.ndarray
    keys: np.ndarray
    spec: ModelSpec
    fingerprint: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> Self:
        """Return some of the images; nothing is read."""
        return replace(self, rows=self.rows[rows], keys=self.keys[rows])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of some images, uint8 (k, size, size, 3), in memory."""
        frames = self.source
        if isinstance(frames, Path):  # mapped, so that processes share what is in memory
            frames = np.memmap(frames, np.uint8, "r").reshape(-1, self.size, self.size, 3)
        return frames[self.rows[rows]]

    def digest(self, rows: np.ndarray) -> str:
        """Return a digest of the frames of some images and of the model."""
        text = json.dumps([self.size, self.fingerprint, self.keys[rows].tolist()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class PixelMapper(EncodeMapper):
    """Images to the frames of one view, as a mapper of the engine.

    Args:
        identity: of the feature store: its choices are used again.
        view, size: which frames.
        masks, window: as of `EncodeMapper`.

    Raises:
        ConfigError: the view is stored as features only.
        StoreError: images are read in another way by now.
    """

    def __init__(
        self,
        identity: dict[str, Any],
        view: str,
        size: int,
        masks: Any,
        window: tuple[float, float] | None,
    ):
        if view not in VIEWS:
            remedy = f"give the learner some of the views {', '.join(VIEWS)}"
            raise ConfigError(f"the view {view} has no pixels of its own", remedy=remedy)
        if identity.get("reader") != canonical(reader_rules(window)):
            message = "the features were made of images that were read in another way"
            raise StoreError(message, remedy="run encode again")
        own = {"fill": identity["fill"], "crop_margin": identity["crop_margin"]}
        own |= {"dim": identity["view_rules"]["dim"]} if view == "dim" else {}
        params = EncodeParams(views=(view,), geometry=identity["geometry"], **own)
        # In place of the model: what its frames are made by.
        model = SimpleNamespace(**identity["model"] | {"image_size": size, "resize_mode": ""})
        model.device, model.tokens, model.has_text = SimpleNamespace(type=""), 0, True
        super().__init__(params, model, masks, window=window)
        for key in ("fingerprint", "precision", "std"):  # decide features, but no frame
            del self.identity["model"][key]

    def prepare(self, *image: Any) -> np.ndarray:
        """Return the frame of one image, uint8 (size, size, 3); arguments of `EncodeMapper`."""
        frames, _ = self.draw(self.source(*image), self.frames)
        if not frames:
            message = f"has no view {self.params.views[0]}"
            raise PipelineError(message, remedy="leave this view out, or give its ground truth")
        return frames[0]

    def map(self, items: Sequence[WorkItem], loaded: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Return the frames as they are."""
        return loaded


def make_pixels(
    dataset: str,
    params: Params,
    paths: Paths,
    manifest: pd.DataFrame,
    store: FeatureStore,
    view: str,
    size: int,
    ids: np.ndarray,
    needed: Collection[str],
) -> Pixels:
    """Return the frames of images, after making those that the file lacks.

    Args:
        dataset, params, paths, manifest: of the project.
        store: the features of the dataset, whose choices are used again.
        view, size: which frames.
        ids: the images; only those that are in `needed` too get a frame.

    Raises:
        StoreError: frames cannot be made: the message names the images and why. The others are
            kept.
        DiskError: the file cannot be written.
    """
    hashes = FileHashes(paths.hashes(dataset))
    masks = open_masks(paths.masks(dataset))
    mapper = PixelMapper(store.identity, view, size, masks, params.images.shown)
    chosen = manifest[manifest["image_id"].isin(set(ids).intersection(needed))]
    items = encode_items(chosen, paths.data(dataset), masks, (view,), hashes)
    path = paths.pixels(dataset) / f"{view}-{size}.u8"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessLock(path.with_suffix(".lock"), "file of pixels"):
        known = _append(path, mapper, items, f"pixels {dataset} {view}", hashes)
    key = {item.image_id: item.key for item in items}
    keys = np.array([key.get(image_id, "") for image_id in ids], dtype=object)
    rows = np.array([known.get(one, -1) for one in keys], dtype=np.int64)
    model = canonical(store.identity["model"]["fingerprint"])
    return Pixels(path, size, rows, keys, params.models.clip, model)


def _append(
    path: Path, mapper: PixelMapper, items: Sequence[WorkItem], title: str, hashes: FileHashes
) -> dict[str, int]:
    """Append the frames that a file lacks; return the row of each key."""
    names, frame = path.with_suffix(".keys"), 3 * mapper.clip.image_size**2
    rules = json.dumps(mapper.identity, sort_keys=True)
    with writing(path):
        stored = names.read_text().splitlines(keepends=True) if names.exists() else []
        if not path.exists() or stored[:1] != [rules + "\n"]:
            path.unlink(missing_ok=True)  # who has mapped it keeps what it sees
            path.touch()
            stored = [rules + "\n"]
        rows = path.stat().st_size // frame
        whole = [line.strip() for line in stored[1:] if line.endswith("\n")][:rows]
        os.truncate(path, len(whole) * frame)
        atomic_write_text(names, "\n".join([rules, *whole, ""]))
    known = {key: row for row, key in enumerate(whole)}
    todo = {item.key: item for item in items if item.key not in known}
    failed: dict[str, str] = {}
    executor = LocalExecutor(BATCH_SIZE, hashes=hashes)
    with (
        closing(executor.imap(lambda: mapper, todo.values())) as results,
        show_progress(title, len(todo), reused=len(items) - len(todo)) as count,
        writing(path),
        path.open("ab") as data,
        names.open("a") as text,
    ):
        while batch := list(islice(results, BATCH_SIZE)):
            failed |= {one.item.image_id: reason_of(one.error) for one in batch if one.error}
            good = [one for one in batch if one.error is None]
            data.write(b"".join(one.row.tobytes() for one in good))
            data.flush()
            os.fsync(data.fileno())
            text.write("".join(f"{one.item.key}\n" for one in good))
            text.flush()
            known |= {one.item.key: len(known) + n for n, one in enumerate(good)}
            count(len(good), len(batch) - len(good))
    hashes.save()
    if failed:
        shown = "; ".join(f"{name!r}: {why}" for name, why in sorted(failed.items())[:3])
        message = f"{len(failed)} image(s) have no pixels: {shown}"
        raise StoreError(
            message, path=path, remedy="correct them, or remove them from the manifest"
        )
    return known
