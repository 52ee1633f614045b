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

from pipeline.errors import ManifestError
from pipeline.images import has_image_suffix
from pipeline.intake.findings import Findings, look_through
from pipeline.intake.tables import read_table, rows_with_lines

MASK_NAME = re.compile(r"(?P<image>.+?)[_-](?:mask|seg|segmentation)(?:[_-]?\d+)?", re.IGNORECASE)
SHOWN = 5


def stem(path: str) -> str:
    """Return a relative path without its image suffix (other dots stay)."""
    pure = PurePosixPath(path)
    name = pure.name
    for suffix in (".nii.gz", pure.suffix):
        if suffix and name.lower().endswith(suffix.lower()) and has_image_suffix(name):
            name = name[: -len(suffix)]
            break
    return (pure.parent / name).as_posix()


def masked_stem(path: str) -> str | None:
    """Return the stem of the image that a stem names a mask of (`a/x_mask_1` -> `a/x`)."""
    pure = PurePosixPath(path)
    named = MASK_NAME.fullmatch(pure.name)
    return (pure.parent / named["image"]).as_posix() if named else None


def _match(
    images: dict[str, list[str]], masks: dict[str, list[str]]
) -> tuple[dict[str, str], list[str]]:
    """Pair images with masks of the same stem.

    Args:
        images: stem -> images.
        masks: stem of an image -> masks that fit it.

    Returns:
        Image -> mask; and the images left without one, since several masks fit or several images
        share a stem.
    """
    pairs, unclear = {}, []
    for key, paths in images.items():
        fitting = masks.get(key, [])
        for path in paths if fitting else ():
            name = PurePosixPath(path).name
            same_name = [mask for mask in fitting if PurePosixPath(mask).name == name]
            if len(fitting) == len(paths) == 1:
                pairs[path] = fitting[0]
            elif len(same_name) == 1:
                pairs[path] = same_name[0]
            else:
                unclear.append(path)
    return pairs, unclear


def _by_stem(findings: Findings) -> dict[str, list[str]]:
    images: dict[str, list[str]] = defaultdict(list)
    for image in findings.images:
        images[stem(image.path)].append(image.path)
    return images


def separate_sibling_masks(findings: Findings, *, pair: bool) -> None:
    """Take masks that are next to their image out of the images.

    A file is a mask when its name extends that of an image of the same folder.

    Args:
        findings: changed in place, warnings included.
        pair: fill in mask_path; False when the masks come from elsewhere.
    """
    stems = {stem(image.path) for image in findings.images}
    masks: dict[str, list[str]] = defaultdict(list)
    lone = []
    for image in findings.images:
        owner = masked_stem(stem(image.path))
        if owner in stems:
            masks[owner].append(image.path)
        elif owner is not None:
            lone.append(image.path)
    separated = {path for paths in masks.values() for path in paths}
    findings.images = [image for image in findings.images if image.path not in separated]
    if separated:
        findings.skipped["ground-truth mask next to its image"] += len(separated)
    if lone:
        findings.warnings.append(
            f"{len(lone)} images are named like masks, but there is no image of that name in the "
            f"same folder: {', '.join(lone[:SHOWN])}; if they are masks, move them to a folder of "
            "their own (--masks)"
        )
    if not pair:
        return
    pairs, unclear = _match(_by_stem(findings), masks)
    for image in findings.images:
        if image.path in pairs:
            image.facts["mask_path"] = pairs[image.path]
    if unclear:
        findings.warnings.append(
            f"{len(unclear)} images have several masks next to them, or share one, and get none: "
            f"{', '.join(sorted(unclear)[:SHOWN])}; merge the masks of an image into one and pass "
            "their folder as --masks"
        )


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
        pairs = _from_folder(findings, source)
    elif source.suffix.lower() in (".csv", ".tsv", ".txt"):
        pairs = _from_table(findings, source, max_rank)
    else:
        what = "is neither a folder nor a CSV" if source.exists() else "no such folder or CSV"
        raise ManifestError(what, path=source, remedy="check --masks")
    if not pairs:
        raise ManifestError(
            f"no mask fits an image (an image is e.g. {findings.images[0].path!r})",
            path=source,
            remedy="name each mask like its image, in the same folders; or pass a CSV (path, mask)",
        )
    for image in findings.images:
        if image.path in pairs:
            file = source / pairs[image.path] if source.is_dir() else Path(pairs[image.path])
            image.facts["mask_path"] = _manifest_name(file, findings.staging or findings.root)


def _from_folder(findings: Findings, source: Path) -> dict[str, str]:
    masks: dict[str, list[str]] = defaultdict(list)
    files = [path for folder in look_through(source).walk() for path in folder.images]
    files = [path for path in files if has_image_suffix(path)]
    for path in files:
        for key in {stem(path), masked_stem(stem(path))} - {None}:
            masks[key].append(path)
    images = _by_stem(findings)
    pairs, unclear = _match(images, masks)
    if unclear:
        findings.warnings.append(
            f"{len(unclear)} images have no mask since several fit (merge them into one) or "
            "several images share a stem"
        )
    used = {path for key in images for path in masks.get(key, [])}
    if len(files) > len(used):
        spare = len(files) - len(used)
        findings.warnings.append(f"{spare} masks in {source.name} belong to no image")
    return pairs


def _from_table(findings: Findings, source: Path, max_rank: int | None) -> dict[str, str]:
    table = read_table(source, "path", "mask_path")
    known = {image.path for image in findings.images}
    pairs: dict[str, str] = {}
    above = 0
    for line, row in rows_with_lines(table):
        rank = row.get("rank", "").strip()
        try:
            if rank and max_rank is not None and float(rank) > max_rank:
                above += 1
                continue
        except ValueError:
            raise ManifestError(
                f"line {line}: rank {rank!r} is not a number", path=source, remedy="correct it"
            ) from None
        name = findings.local_name(row["path"], known)
        if name in known and row["mask_path"]:
            pairs[name] = str(source.parent / row["mask_path"].replace("\\", "/"))
    if above:
        findings.warnings.append(
            f"{above} masks of {source.name} with a rank above {max_rank} are left out"
        )
    return pairs


def _manifest_name(file: Path, root: Path) -> str:
    """Return a mask's path for the manifest: relative to the images' folder if it is below that
    or below the folder above it (so that both can be moved together), else absolute."""
    file, root = file.absolute(), root.resolve()
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    if file.resolve().is_relative_to(root.parent):
        return "../" + file.resolve().relative_to(root.parent).as_posix()
    return file.as_posix()
