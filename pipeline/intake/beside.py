"""Masks that lie beside their images, as in BUSI: x.png, x_mask.png, x_mask_1.png."""

from __future__ import annotations

from collections import defaultdict

from pipeline.intake.folder import Found, Scan
from pipeline.intake.ground_truth import masked_stem, stem

SHOWN = 5


def set_masks_aside(scan: Scan, *, pair: bool) -> None:
    """Take ground-truth masks out of the images found; without this they would be images of
    their class.

    A file is a mask when it is named for an image of the same folder. An image with several
    masks gets none: a warning says so, since one alone would be a wrong ground truth.

    Args:
        scan: changed in place, warnings included.
        pair: fill mask_path; False where the masks come from elsewhere.
    """
    images = {stem(found.path) for found in scan.found}
    masks: dict[str, list[Found]] = defaultdict(list)
    lone = []
    for found in scan.found:
        image = masked_stem(stem(found.path))
        if image in images:
            masks[image].append(found)
        elif image is not None:
            lone.append(found.path)
    aside = {found.path for several in masks.values() for found in several}
    scan.found = [found for found in scan.found if found.path not in aside]
    if aside:
        scan.skipped["ground-truth mask beside its image"] += len(aside)
    if lone:
        scan.warnings.append(
            f"{len(lone)} images are named like masks, but no image of that name lies beside "
            f"them: {', '.join(lone[:SHOWN])}; if they are masks, keep them elsewhere (--masks)"
        )
    if pair:
        _pair(scan, masks)


def _pair(scan: Scan, masks: dict[str, list[Found]]) -> None:
    owners: dict[str, list[Found]] = defaultdict(list)
    for found in scan.found:
        owners[stem(found.path)].append(found)
    unclear = []
    for image, found in masks.items():
        if len(found) == len(owners[image]) == 1:
            owners[image][0].facts["mask_path"] = found[0].path
        else:
            unclear += [owner.path for owner in owners[image]]
    if unclear:
        scan.warnings.append(
            f"{len(unclear)} images have several masks beside them, or share one, and get none: "
            f"{', '.join(sorted(unclear)[:SHOWN])}; join the masks of an image into one and pass "
            "their folder as --masks"
        )
