"""Contact sheet of a dataset as the models will see it, with warnings about unusual images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from pipeline.encode.geometry import make_geometry
from pipeline.errors import ImageError, printable
from pipeline.images import inspect_image, read_mask
from pipeline.io import atomic_write
from pipeline.manifest import mask_file, read_manifest, row_file
from pipeline.paths import Paths

TINY = 32  # pixels
LONG = 4.0  # longer side / shorter side
FLAT = 2.0  # standard deviation of the grey levels
DARK, BRIGHT = 24, 232  # grey level of the 98th or 2nd percentile
COLOURED = 12  # mean difference between the channels; more than coding noise

LINE, MARGIN = 13, 6  # pixels
PAPER, INK, FAINT, ALARM = (255, 255, 255), (20, 20, 20), (110, 110, 110), (190, 30, 30)
OUTLINE = np.array([255, 200, 0], np.uint8)


@dataclass
class Tile:
    """One image of the sheet; `image` is None if it cannot be read."""

    image_id: str
    label: str
    image: np.ndarray | None = None
    coloured: bool = False
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def preview_dataset(
    dataset: str,
    paths: Paths,
    out: str | Path,
    *,
    images: int = 48,
    geometry: str = "pad",
) -> list[str]:
    """Write the contact sheet of a dataset.

    Args:
        dataset: name of the dataset.
        paths: the project folder.
        out: the PNG to write.
        images: number of images, balanced over splits and classes; always the same ones.
        geometry: how an image becomes the model's square input (`encode.geometry`).

    Returns:
        Warnings, each starting with an image id.
    """
    manifest = read_manifest(paths.manifest(dataset))
    rows = choose_rows(manifest.to_dict("records"), images)
    title = f"{dataset}: {len(rows)} of {len(manifest)} images"
    return contact_sheet(rows, out, data=paths.data(dataset), geometry=geometry, title=title)


def choose_rows(rows: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Return `count` manifest rows, round robin over (split, label), in order of a hash."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["image_id"].encode()).digest()):
        groups.setdefault((row["split"], row["label"]), []).append(row)
    longest = max(map(len, groups.values()), default=0)
    ranked = [
        groups[key][k] for k in range(longest) for key in sorted(groups) if k < len(groups[key])
    ]
    return sorted(ranked[:count], key=lambda row: (row["label"], row["split"], row["image_id"]))


def contact_sheet(
    rows: Iterable[Mapping[str, Any]],
    out: str | Path,
    *,
    data: str | Path,
    geometry: str = "pad",
    title: str = "",
    columns: int = 8,
    size: int = 160,
) -> list[str]:
    """Draw manifest rows as a PNG: each image in the model's square, its mask outlined.

    Args:
        rows: manifest rows (mappings).
        out: the PNG; it contains pixels only, no metadata.
        data: folder of the dataset.
        geometry: "pad", "squash" or "crop".
        title: first line of the sheet.
        columns: number of columns.
        size: side of an image in pixels.

    Returns:
        Warnings about single images and about the dataset.
    """
    tiles = [_make_tile(row, Path(data), geometry, size) for row in rows]
    warnings = [f"{printable(t.image_id)}: {w}" for t in tiles for w in t.warnings]
    readable = [t for t in tiles if t.image is not None]
    coloured = [t for t in readable if t.coloured]
    if coloured and 4 * len(coloured) <= len(readable):
        names = ", ".join(printable(t.image_id) for t in coloured[:5])
        warnings.append(
            f"{len(coloured)} of {len(readable)} images are coloured, the others grey: {names}"
        )
    title += f" · {geometry} to a square · mask outlined · {len(warnings)} warnings"
    sheet = _draw(tiles, title, columns, size)
    with atomic_write(out) as partial:
        sheet.save(partial, "PNG")
    return warnings


def image_warnings(image: np.ndarray) -> list[str]:
    """Return warnings about an unusual (h, w, 3) uint8 image; empty if there is none."""
    height, width = image.shape[:2]
    found = []
    if min(height, width) < TINY:
        found.append(f"tiny ({width} x {height})")
    if max(height, width) > LONG * min(height, width):
        found.append(f"very long ({width} x {height})")
    grey = image.mean(axis=2)
    if grey.min() == grey.max():
        found.append("blank")
    elif grey.std() < FLAT:
        found.append("nearly blank")
    elif np.percentile(grey, 98) < DARK:
        found.append("nearly black")
    elif np.percentile(grey, 2) > BRIGHT:
        found.append("nearly white")
    return found


def is_coloured(image: np.ndarray) -> bool:
    """Return whether the channels of a (h, w, 3) uint8 image differ by more than coding noise."""
    return float(np.ptp(image.astype(np.int16), axis=2).mean()) > COLOURED


def _make_tile(row: Mapping[str, Any], data: Path, geometry: str, size: int) -> Tile:
    tile = Tile(row["image_id"], row["label"])
    frame = int(row["frame"])
    try:
        image, tile.remarks = inspect_image(row_file(row, data), frame)
    except ImageError as error:
        tile.warnings.append(f"cannot be read: {error.message}")
        return tile
    tile.warnings += image_warnings(image)
    tile.coloured = is_coloured(image)
    height, width = image.shape[:2]
    if (str(width), str(height)) != (str(row["width"]), str(row["height"])):
        tile.warnings.append(
            f"is {width} x {height}, but {row['width']} x {row['height']} in the manifest"
        )
    plan = make_geometry(geometry, height, width, size)
    tile.image = plan.apply(image).copy()
    file = mask_file(row, data)
    if file is not None:
        try:
            mask = plan.apply_mask(read_mask(file, frame, shape=(height, width)))
            tile.image[mask & ~binary_erosion(mask)] = OUTLINE
        except ImageError as error:
            tile.warnings.append(f"its mask cannot be used: {error.message}")
    return tile


def _draw(tiles: list[Tile], title: str, columns: int, size: int) -> Image.Image:
    font = ImageFont.load_default(size=10)
    step_x, step_y = size + MARGIN, size + 3 * LINE + MARGIN
    top = LINE + 2 * MARGIN
    rows = max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _fit(draw, title, sheet.width - 2 * MARGIN, font), INK, font)
    for k, tile in enumerate(tiles):
        x, y = MARGIN + (k % columns) * step_x, top + (k // columns) * step_y
        if tile.image is not None:
            sheet.paste(Image.fromarray(tile.image), (x, y))
        if tile.warnings:
            draw.rectangle((x - 1, y - 1, x + size, y + size), outline=ALARM, width=2)
        notes = "; ".join(tile.warnings or tile.remarks)
        name = Path(tile.image_id).name
        lines = [(tile.label, INK), (name, FAINT), (notes, ALARM if tile.warnings else FAINT)]
        for n, (text, colour) in enumerate(lines):
            draw.text((x, y + size + 1 + n * LINE), _fit(draw, text, size, font), colour, font)
    return sheet


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """Shorten a line to a width in pixels, keeping its start."""
    text = printable(text)
    while draw.textlength(text, font) > width and len(text) > 1:
        text = text[: max(1, int(len(text) * 0.9) - 1)] + "…"
    return text
