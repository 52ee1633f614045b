"""A contact sheet of what the models will see, with warnings."""

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
from pipeline.errors import ImageError
from pipeline.images.read import inspect_image, read_mask
from pipeline.io import atomic_write
from pipeline.manifest import mask_file, read_manifest, row_file
from pipeline.paths import Paths
from pipeline.preview.odd import image_warnings, is_coloured

LINE, MARGIN = 13, 6  # pixels
PAPER, INK, FAINT, ALARM = (255, 255, 255), (20, 20, 20), (110, 110, 110), (190, 30, 30)
OUTLINE = np.array([255, 200, 0], np.uint8)


@dataclass
class Tile:
    """One picture of the sheet; `image` is None where it could not be read."""

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
        dataset: its name.
        paths: the project folder.
        out: the PNG to write.
        images: how many, drawn evenly over splits and classes, always the same ones.
        geometry: how an image becomes the model's square (`encode.geometry`).

    Returns:
        Warnings, each with its image's id.
    """
    manifest = read_manifest(paths.manifest(dataset))
    rows = choose_rows(manifest.to_dict("records"), images)
    title = f"{dataset}: {len(rows)} of {len(manifest)} images"
    return contact_sheet(rows, out, data=paths.data(dataset), geometry=geometry, title=title)


def choose_rows(rows: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Return `count` manifest rows, taking turns over (split, label), in the order of a hash."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["label"]), []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: hashlib.sha256(row["image_id"].encode()).digest())
    chosen: list[Mapping[str, Any]] = []
    turn = 0
    while len(chosen) < count and any(len(group) > turn for group in groups.values()):
        chosen += [groups[key][turn] for key in sorted(groups) if len(groups[key]) > turn]
        turn += 1
    return sorted(chosen[:count], key=lambda row: (row["label"], row["split"], row["image_id"]))


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
        rows: manifest rows (dicts).
        out: the PNG; it holds pixels only, no metadata.
        data: folder of the dataset.
        geometry: "pad", "squash" or "crop".
        title: first line.
        columns: tiles in a row.
        size: side of a tile, pixels.

    Returns:
        The warnings of all tiles and of the set as a whole.
    """
    tiles = [_make_tile(row, Path(data), geometry, size) for row in rows]
    warnings = [f"{_plain(t.image_id)}: {w}" for t in tiles for w in t.warnings]
    seen = [t for t in tiles if t.image is not None]
    coloured = [t for t in seen if t.coloured]
    if coloured and 4 * len(coloured) <= len(seen):
        names = ", ".join(_plain(t.image_id) for t in coloured[:5])
        warnings.append(
            f"{len(coloured)} of {len(seen)} images are coloured, the rest grey: {names}"
        )
    title += f" · {geometry} to a square · mask outlined · {len(warnings)} warnings"
    sheet = _draw(tiles, title, columns, size)
    with atomic_write(out) as partial:
        sheet.save(partial, "PNG")
    return warnings


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
        tile.warnings.append(f"is {width} x {height}, the manifest says otherwise")
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
    rows = max(1, -(-len(tiles) // columns))
    top = LINE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + top), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _fit(draw, title, sheet.width - 2 * MARGIN, font), INK, font)
    for k, tile in enumerate(tiles):
        x, y = MARGIN + (k % columns) * step_x, top + (k // columns) * step_y
        if tile.image is not None:
            sheet.paste(Image.fromarray(tile.image), (x, y))
        if tile.warnings:
            draw.rectangle((x - 1, y - 1, x + size, y + size), outline=ALARM, width=2)
        notes = "; ".join(tile.warnings) or "; ".join(tile.remarks)
        lines = [(tile.label, INK), (Path(tile.image_id).name, FAINT)]
        lines.append((notes, ALARM if tile.warnings else FAINT))
        for n, (text, colour) in enumerate(lines):
            draw.text((x, y + size + 1 + n * LINE), _fit(draw, text, size, font), colour, font)
    return sheet


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """Shorten a line to a width in pixels, keeping its start."""
    text = _plain(text)
    while draw.textlength(text, font) > width and len(text) > 1:
        text = text[: max(1, int(len(text) * 0.9) - 1)] + "…"
    return text


def _plain(text: str) -> str:
    """A name on one line, whatever control characters it holds."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
