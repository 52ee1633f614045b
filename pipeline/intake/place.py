"""data/<dataset>: a link to where the images are, so that manifests need no machine's paths."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from pipeline.errors import ManifestError
from pipeline.intake.existing import described
from pipeline.intake.folder import Scan
from pipeline.io import writing
from pipeline.paths import Paths


def same_folder(a: Path, b: Path) -> bool:
    """True when both are there and are the same folder."""
    return a.exists() and b.exists() and a.samefile(b)


def make_way(paths: Paths, dataset: str, *, force: bool) -> None:
    """Free data/<dataset> for other images: remove a link, or a folder of phantoms.

    Raises:
        ManifestError: something is there and `force` is not given, or it is a folder of images
            that only the user may delete.
    """
    place = paths.data(dataset)
    if not place.exists() and not place.is_symlink():
        return
    if place.is_symlink() and (force or not place.exists()):
        place.unlink()  # the link alone; the images it points to stay
        return
    if not force:
        there = f"is a link to {place.readlink()}" if place.is_symlink() else "is there already"
        raise ManifestError(
            f"{there}, which is not --from",
            path=place,
            remedy="use another dataset name, or pass --force to replace it",
        )
    if described(paths.manifest(dataset)) != "phantoms":
        raise ManifestError(
            "is a folder of images; it is not deleted, even by --force",
            path=place,
            remedy="move it away, or pass it as --from",
        )
    shutil.rmtree(place)


def settle(paths: Paths, dataset: str, scan: Scan, *, extracted: bool, force: bool) -> None:
    """Make data/<dataset> a link to the images, or move the extracted images there.

    Raises:
        ManifestError: something else is there; see `make_way`.
        DiskError: the folder cannot be written.
    """
    place = paths.data(dataset)
    with writing(place):
        # A run that was killed before it wrote the manifest has left them there.
        if extracted and same_content(place, scan.root):
            return
        make_way(paths, dataset, force=force)
        place.parent.mkdir(parents=True, exist_ok=True)
        if extracted:
            scan.root.rename(place)
        else:
            place.symlink_to(scan.root.resolve(), target_is_directory=True)


def same_content(a: Path, b: Path) -> bool:
    """True when two folders (no links) hold files of the same names and bytes, and no others."""
    if a.is_symlink() or not a.is_dir():
        return False
    names, others = ({p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (a, b))
    return names == others and all(filecmp.cmp(a / n, b / n, shallow=False) for n in names)
