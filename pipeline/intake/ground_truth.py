"""Which ground-truth mask belongs to which image: by stem in a mirrored folder, or by a table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix, is_junk
from pipeline.intake.folder import Scan
from pipeline.intake.table import read_table

MASK_NAME = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?", re.IGNORECASE)


def join_masks(scan: Scan, source: Path, *, max_rank: int | None = None) -> int:
    """Fill mask_path of the images of `scan`.

    Args:
        scan: images found; changed in place, warnings included.
        source: a folder that mirrors the images' (`train/a/x.jpg` -> `train/a/x.png`, or
            `x_mask.png`, `x_seg.png`), or a CSV with columns path, mask and perhaps rank.
        max_rank: with a CSV that has ranks: rows above it are left out (the pairing is doubtful).

    Returns:
        How many images have a mask.

    Raises:
        ManifestError: the source is missing or fits no image.
    """
    if source.is_dir():
        pairs = _by_folder(scan, source)
    elif source.suffix.lower() in (".csv", ".tsv", ".txt"):
        pairs = _by_table(scan, source, max_rank)
    else:
        what = "is neither a folder nor a CSV" if source.exists() else "no such folder or CSV"
        raise ManifestError(what, path=source, remedy="check --masks")
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {scan.found[0].path!r})",
            path=source,
            remedy="name a mask as its image, in the same folders; or pass a CSV (path, mask)",
        )
    for found in scan.found:
        if found.path in pairs:
            found.facts["mask_path"] = mask_name(pairs[found.path], scan.beside or scan.root)
    return len(pairs)


def mask_name(file: Path, root: Path) -> str:
    """Return how a manifest names a mask: relative to the images' folder when it lies below it
    or beside it (so that both can move together), else absolute."""
    file, root = file.absolute(), root.resolve()
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    if file.resolve().is_relative_to(root.parent):
        return "../" + file.resolve().relative_to(root.parent).as_posix()
    return file.as_posix()


def stem(path: str) -> str:
    """Return a relative path without its image suffix (dots elsewhere stay)."""
    pure = PurePosixPath(path)
    name = pure.name
    for suffix in (".nii.gz", pure.suffix):
        if suffix and name.lower().endswith(suffix.lower()) and has_image_suffix(name):
            name = name[: -len(suffix)]
            break
    return (pure.parent / name).as_posix()


def masked_stem(path: str) -> str | None:
    """Return the stem of the image that a mask is named for (`a/x_mask_1` -> `a/x`), or None."""
    pure = PurePosixPath(path)
    named = MASK_NAME.fullmatch(pure.name)
    return (pure.parent / named["image"]).as_posix() if named else None


def _by_folder(scan: Scan, source: Path) -> dict[str, Path]:
    masks: dict[str, list[Path]] = defaultdict(list)
    count = 0
    for here, folders, files in os.walk(source, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        for name in sorted(files):
            if has_image_suffix(name) and not is_junk(name):
                file = Path(here) / name
                key = stem(file.relative_to(source).as_posix())
                count += 1
                for image in {key, masked_stem(key)} - {None}:
                    masks[image].append(file)
    images: dict[str, list[str]] = defaultdict(list)
    for found in scan.found:
        images[stem(found.path)].append(found.path)
    pairs: dict[str, Path] = {}
    unclear = 0
    used: set[Path] = set()
    for key, paths in images.items():
        fits = masks.get(key, [])
        if not fits:
            continue
        used.update(fits)
        for path in paths:
            # a.png and a.jpg in one folder: only a mask of the very same name can tell.
            exact = [file for file in fits if file.name == PurePosixPath(path).name]
            if len(fits) == 1 and len(paths) == 1:
                pairs[path] = fits[0]
            elif len(exact) == 1:
                pairs[path] = exact[0]
            else:
                unclear += 1
    if unclear:
        scan.warnings.append(
            f"{unclear} images have no mask since several fit (join them into one) or several "
            "images share a stem"
        )
    spare = count - len(used)
    if spare:
        scan.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return pairs


def _by_table(scan: Scan, source: Path, max_rank: int | None) -> dict[str, Path]:
    table = read_table(source)
    table.require("path")
    table.require("mask_path")
    paths = {found.path for found in scan.found}
    pairs: dict[str, Path] = {}
    doubtful = 0
    for row, line in zip(table.rows, table.lines, strict=True):
        rank = row.get("rank", "").strip()
        if rank and max_rank is not None:
            try:
                above = float(rank) > max_rank
            except ValueError:
                raise ManifestError(
                    f"line {line}: rank {rank!r} is no number", path=source, remedy="mend it"
                ) from None
            if above:
                doubtful += 1
                continue
        name = scan.relative(row["path"], paths)
        if name in paths and row["mask_path"]:
            pairs[name] = source.parent / row["mask_path"].replace("\\", "/")
    if doubtful:
        scan.warnings.append(
            f"{doubtful} masks of {source.name} with a rank above {max_rank} are left out"
        )
    return pairs
