"""Ground-truth masks: which file is a mask, and of which image.

Three ways, one rule for doubt: an image gets a mask only when exactly one fits.
- A mask is next to its image and is named for it (`x.png`, `x_mask.png`).
- A folder of masks mirrors the images' folder.
- A table lists the mask of each image.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix
from pipeline.intake.findings import Findings, look_through
from pipeline.intake.tables import read_table

MASK_NAME = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?", re.IGNORECASE)
SHOWN = 5


def stem(path: str) -> str:
    """Return a relative path without its image suffix (other dots stay)."""
    pure = PurePosixPath(path)
    if not has_image_suffix(pure.name):
        return path
    name = pure.name[:-7] if pure.name.lower().endswith(".nii.gz") else pure.stem
    return (pure.parent / name).as_posix()


def masked_stem(path: str) -> str:
    """Return the stem of the image that a path names a mask of (`a/x_mask_1.png` -> `a/x`), or
    ""."""
    pure = PurePosixPath(stem(path))
    named = MASK_NAME.fullmatch(pure.name)
    return (pure.parent / named["image"]).as_posix() if named else ""


def separate_sibling_masks(findings: Findings, *, pair: bool) -> None:
    """Take masks that are next to their image out of the images, in place.

    A file is a mask when its name extends that of an image of the same folder. With `pair` it
    becomes the mask_path of that image.
    """
    paths = findings.images["path"]
    stems, owners = set(paths.map(stem)), paths.map(masked_stem)
    is_mask = owners.isin(stems)
    findings.images = findings.images[~is_mask].copy()
    if is_mask.any():
        findings.skipped["ground-truth mask next to its image"] += int(is_mask.sum())
    lone = paths[(owners != "") & ~is_mask]
    if len(lone):
        findings.warnings.append(
            f"{len(lone)} images are named like masks, but there is no image of that name in the "
            f"same folder: {', '.join(lone[:SHOWN])}; if they are masks, move them to a folder of "
            "their own (--masks)"
        )
    if pair:
        masks = paths[is_mask].groupby(owners[is_mask]).agg(list).to_dict()
        _set_masks(findings, _pair(findings, masks))


def join_masks(findings: Findings, source: Path, *, max_rank: int | None = None) -> None:
    """Fill in mask_path from a folder or table of masks.

    Args:
        findings: changed in place, warnings included.
        source: a folder that mirrors the images' (`train/a/x.jpg` -> `train/a/x.png`, or
            `x_mask.png`, `x_seg.png`), or a CSV with columns path, mask and optionally rank.
        max_rank: rows of the CSV with a higher rank are left out.

    Raises:
        ManifestError: the source is missing or fits no image.
    """
    if source.is_dir():
        pairs, folder = _from_folder(findings, source), source
    else:
        pairs, folder = _from_table(findings, source, max_rank), source.parent
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images['path'].iloc[0]!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    named = {path: _manifest_name(folder / mask, findings) for path, mask in pairs.items()}
    _set_masks(findings, named)


def _set_masks(findings: Findings, pairs: dict[str, str]) -> None:
    images = findings.images
    rows = zip(images["path"], images["mask_path"], strict=True)
    images["mask_path"] = pd.Series([pairs.get(path, old) for path, old in rows], images.index, str)


def _pair(findings: Findings, masks: dict[str, list[str]]) -> dict[str, str]:
    """Return path of an image -> mask, of masks by the stem of the image that they fit.

    An image gets none, and is warned of, when several masks fit it, or several images share a stem,
    unless one mask has the very name of the image.
    """
    images: dict[str, list[str]] = defaultdict(list)
    for path in findings.images["path"]:
        images[stem(path)].append(path)
    pairs, unclear = {}, []
    for key in images.keys() & masks.keys():
        for path in images[key]:
            name = PurePosixPath(path).name
            same_name = [mask for mask in masks[key] if PurePosixPath(mask).name == name]
            fitting = masks[key] if len(masks[key]) == len(images[key]) == 1 else same_name
            if len(fitting) == 1:
                pairs[path] = fitting[0]
            else:
                unclear.append(path)
    if unclear:
        findings.warnings.append(
            f"{len(unclear)} images have no mask, since several fit or several images share a "
            f"stem: {', '.join(sorted(unclear)[:SHOWN])}; merge the masks of an image into one and "
            "pass their folder as --masks"
        )
    return pairs


def _from_folder(findings: Findings, source: Path) -> dict[str, str]:
    masks: dict[str, list[str]] = defaultdict(list)
    files = [path for path in look_through(source)[0] if has_image_suffix(path)]
    for path in files:
        for key in {stem(path), masked_stem(path)} - {""}:
            masks[key].append(path)
    used = {mask for path in findings.images["path"] for mask in masks.get(stem(path), [])}
    if spare := len(files) - len(used):
        findings.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return _pair(findings, masks)


def _from_table(findings: Findings, source: Path, max_rank: int | None) -> dict[str, str]:
    table = read_table(source, "path", "mask_path")
    if "rank" in table and max_rank is not None:
        rank = pd.to_numeric(table["rank"].replace(r"^\s*$", "0", regex=True), errors="coerce")
        if rank.isna().any():
            line = rank.isna().idxmax()
            what = f"line {line}: rank {table.at[line, 'rank']!r} is not a number"
            raise ManifestError(what, path=source, remedy="correct it")
        if above := int((rank > max_rank).sum()):
            findings.warnings.append(
                f"{above} masks of {source.name} with a rank above {max_rank} are left out"
            )
        table = table[rank <= max_rank]
    known = set(findings.images["path"])
    names = [findings.local_name(path, known) for path in table["path"]]
    pairs = zip(names, table["mask_path"].str.replace("\\", "/"), strict=True)
    return {name: mask for name, mask in pairs if name in known and mask}


def _manifest_name(file: Path, findings: Findings) -> str:
    """Return a path relative to the images' folder if the file is below that or below the folder
    above it (so that both can be moved together), else an absolute one."""
    file, root = file.absolute(), findings.root.resolve()
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    if file.resolve().is_relative_to(findings.above):
        return "../" + file.resolve().relative_to(findings.above).as_posix()
    return file.as_posix()
