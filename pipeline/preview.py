"""Contact sheet of a dataset as the models will see it, with warnings about unusual images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from pipeline.encode.geometry import choose_geometry, make_geometry
from pipeline.errors import ImageError, printable
from pipeline.images import read_image, read_mask
from pipeline.io import atomic_write
from pipeline.manifest import mask_file, read_manifest, row_file
from pipeline.paths import Paths
from pipeline.segment.quality import odd_truth

TINY = 32  # pixels
LONG = 4.0  # longer side / shorter side
FLAT = 2.0  # standard deviation of the grey levels
DARK, BRIGHT = 24, 232  # grey level of the 98th or 2nd percentile
COLUMNS, SIZE, LINE, MARGIN = 8, 160, 13, 6  # SIZE and what follows in pixels
PAPER, INK, ALARM = (255, 255, 255), (20, 20, 20), (190, 30, 30)
OUTLINE, BOX = (255, 200, 0), (0, 200, 255)  # of the mask, of the box


def preview_dataset(
    dataset: str,
    paths: Paths,
    out: str | Path,
    *,
    images: int = 48,
    geometry: str = "pad",
    window: tuple[float, float] | None = None,
) -> list[str]:
    """Write the contact sheet of a dataset: each image in the model's square, with
    its mask and box outlined.

    Args:
        dataset: name of the dataset.
        paths: the project folder.
        out: the PNG to write; it contains pixels only, no metadata.
        images: number of images, balanced over splits and classes; always the same ones.
        geometry: how an image becomes the model's square input (`encode.geometry`);
            auto is drawn as pad, since no model is loaded.
        window: that of `read_image` (`images.window`).

    Returns:
        Warnings, each starting with an image id.
    """
    table = choose_rows(read_manifest(paths.manifest(dataset)), images)
    step_x, step_y = SIZE + MARGIN, SIZE + 3 * LINE + MARGIN
    shape = COLUMNS * step_x + MARGIN, -(-len(table) // COLUMNS) * step_y + MARGIN
    sheet = Image.new("RGB", shape, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    warnings = []
    for k, row in enumerate(table.to_dict("records")):
        tile, found = _tile(row, paths.data(dataset), geometry, window)
        name = printable(row["image_id"])
        warnings += [f"{name}: {warning}" for warning in found]
        x, y = MARGIN + k % COLUMNS * step_x, MARGIN + k // COLUMNS * step_y
        if tile is not None:
            sheet.paste(Image.fromarray(tile), (x, y))
        if found:
            draw.rectangle((x - 1, y - 1, x + SIZE, y + SIZE), outline=ALARM, width=2)
        lines = [(printable(row["label"]), INK), (Path(name).name, INK), ("; ".join(found), ALARM)]
        for n, (text, colour) in enumerate(lines):
            while draw.textlength(text, font) > SIZE:
                text = text[: len(text) * 9 // 10 - 1] + "…"
            draw.text((x, y + SIZE + 1 + n * LINE), text, colour, font)
    with atomic_write(out) as partial:
        sheet.save(partial, "PNG")
    return warnings


def choose_rows(manifest: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` rows, the same number of each (split, label), in order of a hash."""
    table = manifest.iloc[np.argsort(pd.util.hash_array(manifest["image_id"].to_numpy(object)))]
    rank = table.groupby(["split", "label"]).cumcount()
    return table.iloc[np.argsort(rank, kind="stable")[:count]].sort_values(
        ["label", "split", "image_id"]
    )


def image_warnings(image: np.ndarray) -> list[str]:
    """Return warnings about an unusual (h, w, 3) uint8 image; empty if there is none."""
    height, width = image.shape[:2]
    grey = image.mean(axis=2)
    checks = {
        f"tiny ({width} x {height})": min(height, width) < TINY,
        f"very long ({width} x {height})": max(height, width) > LONG * min(height, width),
        "nearly blank": grey.std() < FLAT,
        "nearly black": np.percentile(grey, 98) < DARK,
        "nearly white": np.percentile(grey, 2) > BRIGHT,
    }
    return [warning for warning, applies in checks.items() if applies]


def _tile(
    row: dict, data: Path, geometry: str, window: tuple[float, float] | None
) -> tuple[np.ndarray | None, list[str]]:
    """Return the picture of a manifest row, None if it cannot be read, and its warnings."""
    try:
        image = read_image(row_file(row, data), int(row["frame"]), window=window)
    except ImageError as error:
        return None, [f"cannot be read: {error.message}"]
    warnings, (height, width) = image_warnings(image), image.shape[:2]
    if (width, height) != (int(row["width"]), int(row["height"])):
        said = f"{row['width']} x {row['height']}"
        warnings.append(f"is {width} x {height}, but {said} in the manifest")
    plan = make_geometry(choose_geometry(geometry, "shortest"), height, width, SIZE)
    tile = np.array(plan.apply(image))
    if row["box"]:
        box = np.zeros((height, width), bool)
        x0, y0, x1, y1 = (round(float(v)) for v in row["box"].split(","))
        box[y0:y1, x0:x1] = True
        box = plan.apply_mask(box)
        tile[box & ~binary_erosion(box)] = BOX
    if (file := mask_file(row, data)) is not None:
        try:
            truth = read_mask(file, int(row["frame"]), shape=(height, width))
            warnings += [f"its mask: {odd}"] if (odd := odd_truth(truth)) else []
            mask = plan.apply_mask(truth)
            tile[mask & ~binary_erosion(mask)] = OUTLINE
        except ImageError as error:
            warnings.append(f"its mask cannot be used: {error.message}")
    return tile, warnings
