"""What a person said of the mask of each image: one PNG per image, cache/<dataset>/reviewed/.

The PNG is the mask; its text chunk `review` is JSON: image, version, state and prompt. Both are one
file, so that they are replaced together. Who reviewed, and when, is not kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from pipeline.config import REVIEWED
from pipeline.errors import PipelineError, StoreError
from pipeline.io import atomic_write

STATES = ("accepted", "nothing", "skipped", "open")
"""accepted: the mask is right; nothing: nothing to mark; open: taken back, to be done again."""
JUDGED = ("accepted", "nothing")
VARIANT = f"{REVIEWED}/all"
"""Of the masks, made of the edits: one part, which serves every split, since no model has learned
from them."""


class Stale(PipelineError):
    """What a page shows is not what is stored any more."""


@dataclass(frozen=True)
class Edit:
    """The last word on an image.

    Args:
        image_id, sha256: the image, and the bytes that were shown.
        version: 1 for the first edit of an image, then one more each time.
        state: one of `STATES`.
        box: x0, y0, x1, y1 in pixels of the upright image, or () for none.
        points: clicks (x, y, 1 inside or 0 outside), pixels.
        painted: whether brush or eraser were used.
        crc: checksum of the mask, set when it is saved.
    """

    image_id: str
    sha256: str
    version: int
    state: str
    box: tuple[float, ...] = ()
    points: tuple[tuple[float, float, int], ...] = ()
    painted: bool = False
    crc: int = 0

    @property
    def text(self) -> str:
        """The prompt in words, for the mask store."""
        said = ["box " + ",".join(f"{v:g}" for v in self.box)] if self.box else []
        clicks = ";".join(f"{x:g},{y:g},{label}" for x, y, label in self.points)
        said += [f"points {clicks}"] if clicks else []
        return ", ".join([f"reviewed: {self.state}", *said, *["painted"] * self.painted])


class Edits:
    """All edits of a dataset. Safe in threads; one process at a time (the caller holds a lock).

    Args:
        folder: cache/<dataset>/reviewed.

    Raises:
        StoreError: a file in the folder is not a whole edit.
    """

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        self.known: dict[str, Edit] = {}
        for file in sorted(folder.glob("[!.]*.png")):
            edit = read_edit(file)
            self.known[edit.image_id] = edit

    def file(self, image_id: str) -> Path:
        """The file of an image: ids may hold any character, and be long."""
        return self.folder / f"{hashlib.sha256(image_id.encode()).hexdigest()[:32]}.png"

    def of(self, image_id: str, sha256: str) -> Edit | None:
        """Return the edit of an image with these bytes; None where there is none."""
        edit = self.known.get(image_id)
        return edit if edit and edit.sha256 == sha256 and edit.state != "open" else None

    def version(self, image_id: str) -> int:
        """The version that the next edit of an image has to name; 0 where there is none."""
        return self.known[image_id].version if image_id in self.known else 0

    def mask(self, image_id: str) -> np.ndarray:
        """Return the mask, bool (h, w), of an image that was judged."""
        with Image.open(self.file(image_id)) as image:
            return np.asarray(image.convert("L")) > 0

    def save(self, edit: Edit, mask: np.ndarray) -> None:
        """Write an edit and its mask, bool (h, w); on the disk when this returns.

        Raises:
            Stale: `edit.version` does not follow the one stored: another page was faster.
            DiskError: the file cannot be written; what was there before is unchanged.
        """
        with self._lock:
            if edit.version != self.version(edit.image_id) + 1:
                message = f"{edit.image_id!r} was saved by another page since it was shown here"
                raise Stale(message, remedy="load it again (R); nothing was overwritten")
            edit = replace(edit, crc=zlib.crc32(np.packbits(mask)))
            text = PngImagePlugin.PngInfo()
            text.add_text("review", json.dumps(asdict(edit)))
            image = Image.fromarray(mask.astype(np.uint8) * 255).convert("1")
            with atomic_write(self.file(edit.image_id)) as partial:
                image.save(partial, "PNG", pnginfo=text)
            self.known[edit.image_id] = edit


def read_edit(file: Path) -> Edit:
    """Return the edit of a file; StoreError if it is not a whole one."""
    try:
        with Image.open(file) as image:
            values = json.loads(image.text["review"])
            image.load()
        points = tuple((x, y, label) for x, y, label in values["points"])
        edit = Edit(**values | {"box": tuple(values["box"]), "points": points})
    except (OSError, KeyError, AttributeError, TypeError, ValueError, SyntaxError):
        remedy = "restore it from a copy, or move it away to review the image again"
        raise StoreError("is not a whole review of an image", path=file, remedy=remedy) from None
    return edit
