"""`pipeline data add`: find the images, join what is known of them, measure them, write."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from pipeline.config_rules import DATASET_NAME
from pipeline.errors import ManifestError
from pipeline.intake.archive import extracted
from pipeline.intake.beside import set_masks_aside
from pipeline.intake.existing import described, merge_existing
from pipeline.intake.folder import Scan, scan_folder
from pipeline.intake.ground_truth import join_masks
from pipeline.intake.groups import join_groups
from pipeline.intake.measure import Progress
from pipeline.intake.patients import patients_from_names
from pipeline.intake.place import same_content, same_folder, settle
from pipeline.intake.record import record_add, record_refresh
from pipeline.intake.rows import (
    KEEPS,
    build_rows,
    leave_masks_out,
    measure_masks,
    oddities,
    remeasure,
    resolve_straddling,
)
from pipeline.intake.summary import AddSummary
from pipeline.intake.table import scan_table
from pipeline.io import manifest_lock, remove_leftovers
from pipeline.manifest import read_manifest, write_manifest
from pipeline.manifest_checks import find_problems, report_problems
from pipeline.paths import Paths

OnStraddle = Literal["error", "drop-train", "drop-test"]


def add_dataset(
    dataset: str,
    source: str | Path,
    *,
    paths: Paths | None = None,
    masks: str | Path | None = None,
    max_rank: int | None = 5,
    groups: str | Path | None = None,
    patient_regex: str | None = None,
    on_straddle: OnStraddle | None = None,
    synthetic: bool = False,
    force: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AddSummary:
    """Make data_manifests/<dataset>.csv from a folder, CSV or zip of images.

    What failed, was skipped or left out stands in cache/<dataset>/records/add.json too.

    The images stay where they are: data/<dataset> becomes a link to their folder (a zip is
    extracted there). Nothing is written unless all of it can be. Adding the same folder or CSV
    again brings what is new, gone or changed; the same zip may be added again, but the images of
    another version of it are for the user to put into the folder.

    Args:
        dataset: letters, digits, "_" and "-".
        source: folder `[split/]class/image`; CSV with columns path and label; or zip of a folder.
        paths: the project folder; default: the current one.
        masks: ground truth: a folder that mirrors the images', or a CSV (path, mask, rank).
            Without it, files named for an image beside them (`x_mask.png`) are its masks.
        max_rank: rows of such a CSV above this rank are left out.
        groups: CSV of known groups (path or image_id; group, series, slice, fold, patient_id).
        patient_regex: its first group that matches a file name is the patient. Without it, known
            kinds of names and DICOM headers (by a one-way code) are read.
        on_straddle: what to do with a patient who is in two splits: "error"; "drop-train" or
            "drop-test" take the images out of that split (they stay in the manifest, with no
            split). Default: "error" for patients that a table states; "drop-train" for those
            read from names and headers, since publishers often split by file - it keeps the
            publisher's test part whole.
        synthetic: the images are phantoms.
        force: replace a manifest of other images, or one that says otherwise.
        workers: threads.
        progress: called with (done, total) images.

    Returns:
        Counts, what was skipped by reason, what failed by name, warnings.

    Raises:
        ManifestError: nothing usable, or a problem that needs a decision; nothing was written.
        DiskError: a folder cannot be written, or the disk is full; nothing was written.
    """
    if not re.fullmatch(DATASET_NAME, dataset):
        raise ManifestError(
            f"{dataset!r} is no name for a dataset", remedy="use letters, digits, _ and -"
        )
    if on_straddle not in (None, "error", *KEEPS):
        raise ManifestError(
            f"--on-straddle {on_straddle!r} is not known",
            remedy=f"use error, {' or '.join(KEEPS)}",
        )
    paths = paths or Paths()
    remove_leftovers(paths.data(dataset))
    source, manifest = Path(source), paths.manifest(dataset)
    mask_source = Path(masks) if masks is not None else None
    if mask_source is not None and same_folder(source, mask_source):
        mask_source = None  # the masks lie beside the images
    with ExitStack() as undo:
        for folder in (manifest.parent, paths.data(dataset).parent):
            if not folder.exists():
                undo.callback(_remove_empty, folder)
        undo.enter_context(manifest_lock(manifest))
        scan = _scan(source, mask_source, paths.data(dataset), undo)
        same = _is_home(paths, dataset, scan)
        stated = _join(scan, mask_source, max_rank, groups, patient_regex)
        rows = build_rows(scan, synthetic=synthetic, workers=workers, progress=progress)
        frame = rows.frame
        if frame.empty:
            first = next(iter(rows.failed.items()), ("", ""))
            raise ManifestError(
                f"none of {len(rows.failed)} images can be read; the first, {first[0]}: {first[1]}",
                path=source,
                remedy="check the files",
            )
        summary = AddSummary(dataset, manifest, failed=rows.failed, warnings=scan.warnings)
        summary.skipped = dict(sorted((scan.skipped + rows.skipped).items()))
        bad_masks = measure_masks(frame, scan.file, workers)
        summary.warnings += leave_masks_out(frame, bad_masks)
        left_out = {frame.at[i, "image_id"]: reason for i, reason in bad_masks.items()}
        how = on_straddle or ("error" if stated else "drop-train")
        if how != "error":
            summary.warnings += resolve_straddling(frame, how)
        problems = find_problems(frame.astype(str), rows.lines)
        if problems:
            raise report_problems(source, problems)
        frame, summary.changed = merge_existing(
            frame, manifest, same_source=same, force=force, without_mask=set(left_out)
        )
        summary.warnings += oddities(frame)
        if frame["label"].nunique() == 1:
            only = frame["label"].iloc[0]
            summary.warnings.append(f"all images are of one class, {only!r}: check the folders")
        summary.count(frame)

        def place_images() -> None:
            if not same:
                settle(paths, dataset, scan, extracted=scan.home is not None, force=force)

        # Images and manifest take their places together, when nothing is left that may fail.
        write_manifest(frame, manifest, first=place_images)
        record_add(summary, paths, left_out)
    return summary


def _is_home(paths: Paths, dataset: str, scan: Scan) -> bool:
    """Return whether the images are those that data/<dataset> has.

    Raises:
        ManifestError: it is a folder that an earlier zip became, with images that only the user
            may replace.
    """
    place = paths.data(dataset)
    if scan.home is None:
        return same_folder(place, scan.root)
    if place.is_symlink() or not place.is_dir():
        return False
    if same_content(place, scan.root):
        return True
    if described(paths.manifest(dataset)) == "images":
        raise ManifestError(
            "holds other images than this zip; they are not replaced, even by --force",
            path=place,
            remedy="unpack the zip into it and pass it as --from, use another dataset name, or "
            "move it away",
        )
    return False


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not there, or there is something in it
        folder.rmdir()


def _scan(source: Path, masks: Path | None, place: Path, undo: ExitStack) -> Scan:
    """Find the images of a folder, zip or CSV."""
    if source.is_dir():
        scan = scan_folder(source, exclude=(masks,) if masks is not None else ())
    elif source.suffix.lower() == ".zip":
        beside = undo.enter_context(extracted(source, place))
        scan = scan_folder(beside)
        scan.home, scan.beside = place, beside
    elif not source.exists():
        raise ManifestError("no such folder, CSV or zip", path=source, remedy="check --from")
    else:
        return scan_table(source)
    set_masks_aside(scan, pair=masks is None)
    return scan


def _join(
    scan: Scan,
    masks: Path | None,
    max_rank: int | None,
    groups: str | Path | None,
    patient_regex: str | None,
) -> bool:
    """Fill in masks, groups and patients; return whether a table states patients."""
    if masks is not None:
        join_masks(scan, masks, max_rank=max_rank)
    if groups is not None:
        join_groups(scan, Path(groups))
    stated = any(found.facts.get("patient_id") for found in scan.found)
    if patient_regex or not stated:
        names = [found.path for found in scan.found]
        patients = patients_from_names(names, patient_regex)
        for found, patient in zip(scan.found, patients, strict=True):
            if patient:
                found.facts.setdefault("patient_id", patient)
    return stated


def refresh_dataset(
    dataset: str,
    *,
    paths: Paths | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AddSummary:
    """Bring hashes, sizes and mask areas of a manifest up to date with its files.

    Rows stay as they are otherwise: one whose image or mask is gone or cannot be read keeps its
    cells and is listed in `failed`. New files are not looked for: `add_dataset` does that.

    Raises:
        ManifestError: the manifest is missing or wrong.
    """
    paths = paths or Paths()
    manifest, data = paths.manifest(dataset), paths.data(dataset)
    with manifest_lock(manifest):
        frame = read_manifest(manifest)
        summary = AddSummary(dataset, manifest)
        before = frame["sha256"].copy()
        summary.failed = remeasure(frame, data, workers, progress)
        frame.loc[frame["mask_path"] == "", "mask_area"] = ""
        for i, reason in measure_masks(frame, data.joinpath, workers).items():
            mask = frame.at[i, "mask_path"]
            summary.failed.setdefault(
                frame.at[i, "image_id"],
                f"its mask {mask} {reason} - put it back or mend it; or empty its mask_path",
            )
        changed = int((frame["sha256"] != before).sum())
        summary.changed = {"added": 0, "removed": 0, "changed": changed}
        summary.count(frame)
        write_manifest(frame, manifest)
        record_refresh(summary, paths, {*frame["path"], *frame["image_id"]})
    return summary
