"""What the folders of a source mean: `[split/]class/[any folders/]image`.

Rules on folder names and shapes belong here, each once: `SPLIT_NAMES`, the wrapping folder
(`_wrapped_folder`) and the level of the classes (`_label_images`).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ManifestError, printable
from pipeline.intake.findings import Findings, Folder, FoundImage, look_through

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

    Args:
        source: the folder.
        exclude: folders below it that hold something else (masks).

    Raises:
        ManifestError: a folder cannot be listed, no images, no class folders, or class folders
            next to split folders.
    """
    root, outside = look_through(source, exclude=exclude), []
    while (inner := _wrapped_folder(root)) is not None:
        outside += root.images
        root = inner
    findings = Findings(source / root.path)
    start = len(root.path) + 1 if root.path else 0
    for folder in root.walk():
        findings.skipped += folder.skipped
        findings.images += [FoundImage(path[start:]) for path in folder.images]
    if not findings.images:
        counts = "".join(f"; {n} skipped: {why}" for why, n in findings.skipped.most_common(3))
        raise ManifestError(f"no images in it{counts}", path=source, remedy=ARRANGE)
    findings.images.sort(key=lambda image: image.path)
    depth = _label_images(findings, outside)
    full = {"/".join(image.path.split("/")[: depth + 1]) for image in findings.images}
    for name in sorted({folder.path[start:] for folder in root.walk()} - full - {""}):
        if name.count("/") == depth:
            findings.warnings.append(f"folder {name!r} holds no images, so it is no class")
    return findings


def _wrapped_folder(folder: Folder) -> Folder | None:
    """Return the only subfolder that holds images, if `folder` merely wraps it; else None.

    A subfolder of split folders is wrapped whatever is next to it. Another one must be the only
    subfolder, and have subfolders that are its classes: several of them if there are stray images
    too, since a class may hold images and one folder.
    """
    if any(split_named(sub.name) for sub in folder.folders) or len(folder.filled) != 1:
        return None
    inner = folder.filled[0]
    if any(split_named(sub.name) for sub in inner.filled):
        return inner
    if len(folder.folders) > 1 or not inner.folders:
        return None
    strays = folder.images or inner.images
    several = len(inner.filled) > 1 or _wrapped_folder(inner) is not None
    return inner if several or not strays else None


def _label_images(findings: Findings, outside: list[str]) -> int:
    """Set label and split of each image; drop images in no class folder and warn of them.

    Args:
        findings: images of the root; changed in place.
        outside: images outside of the root.

    Returns:
        The depth of the class in a path: 1 below split folders, else 0.
    """
    tops = sorted({i.path.partition("/")[0] for i in findings.images if "/" in i.path})
    splits = [name for name in tops if split_named(name)]
    others = [name for name in tops if name not in splits]
    if splits and others:
        raise ManifestError(
            f"{', '.join(map(repr, others))} next to the split folders {', '.join(splits)}",
            path=findings.root,
            remedy="put the classes inside the splits, and masks elsewhere (--masks)",
        )
    depth = 1 if splits else 0
    loose = [image.path for image in findings.images if image.path.count("/") <= depth]
    findings.images = [image for image in findings.images if image.path.count("/") > depth]
    if not findings.images:
        raise ManifestError("the images are in no class folder", path=findings.root, remedy=ARRANGE)
    for image in findings.images:
        parts = image.path.split("/")
        image.split = split_named(parts[0]) if splits else ""
        image.label = parts[depth]
    if stray := outside + loose:
        findings.skipped["image in no class folder"] += len(stray)
        shown = ", ".join(map(printable, stray[:SHOWN])) + (", ..." if len(stray) > SHOWN else "")
        findings.warnings.append(
            f"{len(stray)} images are in no class folder and are left out: {shown}"
        )
    return depth
