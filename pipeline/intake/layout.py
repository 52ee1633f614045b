"""What the folders of a source mean: `[split/]class/[any folders/]image`.

Rules on folder names and shapes belong here, each once: `SPLIT_NAMES`, the wrapping folder
(`_wrapped_folder`) and the level of the classes (`read_folder`).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.errors import ManifestError, printable
from pipeline.intake.findings import Findings, look_through

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
MASK_FOLDERS = ("mask", "masks", "ground_truth", "groundtruth", "segmentation", "segmentations")
ARRANGE = "arrange them as class/image or split/class/image, or pass a CSV with labels"
SHOWN = 5  # names in a warning


def split_named(name: str) -> str:
    """Return the split that a folder or a table's cell names; "" = none."""
    return SPLIT_NAMES.get(name.strip().lower(), "")


def read_folder(source: Path, *, exclude: tuple[Path, ...] = ()) -> Findings:
    """Find the images of a folder, their classes and splits.

    Images outside of class folders are left out and named in a warning. Downloads often wrap the
    whole set in one or more folders: `Findings.root` is the innermost.

    Raises:
        ManifestError: a folder cannot be listed, no images, no class folders, or class folders
            next to split folders.
    """
    images, folders, skipped = look_through(source, exclude=exclude)
    if not images:
        counts = "".join(f"; {n} skipped: {why}" for why, n in skipped.most_common(3))
        raise ManifestError(f"no images in it{counts}", path=source, remedy=ARRANGE)
    root, stray = source, []
    while inner := _wrapped_folder(images, folders):
        stray += [path for path in images if "/" not in path]
        images, folders = _below(images, inner), _below(folders, inner)
        root = root / inner

    tops = _tops(images)
    splits = [name for name in tops if split_named(name)]
    others = [name for name in tops if name not in splits]
    if splits and others:
        raise ManifestError(
            f"{', '.join(map(repr, others))} next to the split folders {', '.join(splits)}",
            path=root,
            remedy="put the classes inside the splits, and masks elsewhere (--masks)",
        )
    depth = 1 if splits else 0  # of the class in a path
    stray += [path for path in images if path.count("/") <= depth]
    images = sorted(path for path in images if path.count("/") > depth)
    if not images:
        raise ManifestError("the images are in no class folder", path=root, remedy=ARRANGE)
    parts = [path.split("/") for path in images]
    split = [split_named(names[0]) if splits else "" for names in parts]
    label = [names[depth] for names in parts]
    table = pd.DataFrame({"path": images, "label": label, "split": split}, dtype=str)
    findings = Findings(root, table, skipped)
    if stray:
        skipped["image in no class folder"] += len(stray)
        shown = ", ".join(map(printable, stray[:SHOWN])) + (", ..." if len(stray) > SHOWN else "")
        findings.warnings.append(
            f"{len(stray)} images are in no class folder and are left out: {shown}"
        )
    return findings


def _wrapped_folder(images: list[str], folders: list[str]) -> str:
    """Return the folder at the top that all else merely wraps; "" = none.

    A folder of split folders is wrapped whatever is next to it. Another one must be the only
    folder, and have folders that are its classes: several of them if there are stray images too,
    since a class may hold images and one folder.
    """
    tops, names = _tops(images), [name for name in folders if "/" not in name]
    if any(map(split_named, names)) or len(tops) != 1:
        return ""
    inner = _below(images, tops[0])
    if any(map(split_named, _tops(inner))):
        return tops[0]
    deeper = _below(folders, tops[0])
    if len(names) > 1 or not deeper:
        return ""
    strays = any("/" not in path for path in images + inner)
    several = len(_tops(inner)) > 1 or _wrapped_folder(inner, deeper)
    return tops[0] if several or not strays else ""


def _tops(images: list[str]) -> list[str]:
    """Return the folders at the top with an image anywhere below."""
    return sorted({path.partition("/")[0] for path in images if "/" in path})


def _below(paths: list[str], folder: str) -> list[str]:
    return [path.removeprefix(f"{folder}/") for path in paths if path.startswith(f"{folder}/")]
