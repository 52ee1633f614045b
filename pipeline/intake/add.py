"""`pipeline data add` and `data refresh`: write or change a manifest."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.config import DATASET_NAME
from pipeline.errors import ManifestError
from pipeline.intake.archive import extracted
from pipeline.intake.existing import is_in_place, merge_existing, put_in_place, same_folder
from pipeline.intake.findings import Findings
from pipeline.intake.layout import read_folder
from pipeline.intake.masks import join_masks, separate_sibling_masks
from pipeline.intake.patients import SPLIT_PRIORITY, fill_in_patients, keep_in_one_split
from pipeline.intake.rows import Progress, build_rows, measure_all, measure_masks, row_warnings
from pipeline.intake.summary import AddSummary
from pipeline.intake.tables import join_groups, read_image_table
from pipeline.io import manifest_lock, remove_leftovers
from pipeline.manifest import check_rows, read_manifest, write_manifest
from pipeline.paths import Paths

SHOWN = 5  # names in a warning


def add_dataset(
    dataset: str,
    source: str | Path,
    *,
    paths: Paths | None = None,
    masks: str | Path | None = None,
    max_rank: int | None = 5,
    groups: str | Path | None = None,
    patient_regex: str | None = None,
    on_shared_patient: str | None = None,
    synthetic: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> AddSummary:
    """Write data_manifests/<dataset>.csv from a folder, CSV or zip of images.

    The images stay where they are: data/<dataset> becomes a link to their folder (a zip is
    extracted there). Either everything is written or nothing. Adding the same folder or CSV again
    brings the manifest up to date with new, missing and changed files. The same zip may be added
    again; the images of another version of it must be put into the folder by the user. Failed,
    skipped and left out files are also recorded in cache/<dataset>/records/add.json.

    Args:
        dataset: letters, digits, "_" and "-".
        source: folder `[split/]class/image`; CSV with columns path and label; or zip of a folder.
        paths: the project folder; default: the current one.
        masks: ground truth: a folder that mirrors the images', or a CSV (path, mask, rank).
            Default: files next to an image and named for it (`x_mask.png`) are its masks.
        max_rank: rows of such a CSV with a higher rank are left out.
        groups: CSV of known groups (path or image_id; group, series, slice, fold, patient_id).
        patient_regex: regular expression; its first group that matches a file name is the
            patient. Default: known naming schemes and DICOM headers (by a one-way code).
        on_shared_patient: a patient in two splits is an "error"; or the images are taken out of
            one split ("drop-train", "drop-test") and stay in the manifest without a split. Default:
            "error" for patients that a table states; "drop-train" for those from names and
            headers, since publishers often split by file, so that the official test part stays
            complete.
        synthetic: the images are phantoms.
        force: replace a manifest of other images, or one that contradicts the new rows.
        progress: called with (done, total) images.

    Returns:
        Counts, reasons of skipped files, failed files by name, warnings.

    Raises:
        ManifestError: nothing usable, or a problem that needs a decision; nothing was written.
        DiskError: a folder cannot be written, or the disk is full; nothing was written.
    """
    if not re.fullmatch(DATASET_NAME, dataset):
        raise ManifestError(
            f"{dataset!r} is not a valid dataset name", remedy="use letters, digits, _ and -"
        )
    if on_shared_patient not in (None, "error", *SPLIT_PRIORITY):
        raise ManifestError(
            f"--on-shared-patient {on_shared_patient!r} is not known",
            remedy=f"use error, {' or '.join(SPLIT_PRIORITY)}",
        )
    paths = paths or Paths()
    source, manifest, place = Path(source), paths.manifest(dataset), paths.data(dataset)
    mask_source = Path(masks) if masks is not None else None
    if mask_source is not None and same_folder(source, mask_source):
        mask_source = None  # the masks are next to the images
    remove_leftovers(place)
    with manifest_lock(manifest), extracted(source, place) as folder:
        # What is there, and what is known of it.
        findings = _find(folder, mask_source)
        findings.home = place if folder != source else None
        in_place = is_in_place(place, findings, manifest=manifest, force=force)
        if mask_source is not None:
            join_masks(findings, mask_source, max_rank=max_rank)
        if groups is not None:
            join_groups(findings, Path(groups))
        stated = fill_in_patients(findings, patient_regex)

        # Rows.
        frame, lines = build_rows(findings, synthetic=synthetic, progress=progress)
        if frame.empty:
            first = "; ".join(f"{name}: {why}" for name, why in list(findings.failed.items())[:1])
            raise ManifestError(
                f"none of {len(findings.images)} images can be read; {first}",
                path=source,
                remedy="check the files",
            )
        bad_masks = measure_masks(frame, findings.file)
        frame.loc[list(bad_masks), "mask_path"] = ""
        unusable = {frame.at[i, "image_id"]: why for i, why in bad_masks.items()}
        if unusable:
            named = "; ".join(f"{name} {why}" for name, why in list(unusable.items())[:SHOWN])
            findings.warnings.append(f"{len(unusable)} ground-truth masks are left out: {named}")
        how = on_shared_patient or ("error" if stated else "drop-train")
        if how != "error":
            findings.warnings += keep_in_one_split(frame, how)
        check_rows(frame, lines, source)

        # The manifest.
        frame, changed = merge_existing(frame, manifest, same_source=in_place, force=force)
        # The old manifest may know an older mask of these.
        frame.loc[frame["image_id"].isin(unusable), ["mask_path", "mask_area"]] = ""
        summary = AddSummary(
            dataset,
            manifest,
            frame,
            skipped=dict(sorted(findings.skipped.items())),
            failed=findings.failed,
            masks_left_out=unusable,
            warnings=findings.warnings + row_warnings(frame),
            changed=changed,
        )

        # Images and manifest are put in place together, once nothing else can fail.
        def place_images() -> None:
            if not in_place:
                put_in_place(place, findings)

        write_manifest(frame, manifest, before_replace=place_images)
        summary.record(paths)
    return summary


def _find(source: Path, masks: Path | None) -> Findings:
    """Find the images of a folder or CSV, with masks next to them (masks = None) taken out."""
    if not source.exists():
        raise ManifestError("no such folder, CSV or zip", path=source, remedy="check --from")
    if not source.is_dir():
        return read_image_table(source)
    findings = read_folder(source, exclude=(masks,) if masks is not None else ())
    separate_sibling_masks(findings, pair=masks is None)
    return findings


def refresh_dataset(
    dataset: str, *, paths: Paths | None = None, progress: Progress | None = None
) -> AddSummary:
    """Update hashes, sizes and mask areas of a manifest from its files.

    All else stays as it is. A row whose image or mask is missing or unreadable keeps its cells and
    is listed in `failed`. New files are found by `add_dataset` only.

    Raises:
        ManifestError: the manifest is missing or invalid.
    """
    paths = paths or Paths()
    manifest, data = paths.manifest(dataset), paths.data(dataset)
    with manifest_lock(manifest):
        frame = read_manifest(manifest)
        measured, failed, changed = measure_all(data, set(frame["path"]), progress), {}, 0
        for row in frame.itertuples():
            result = measured[row.path]
            info = next((info for info in result.frames if info.frame == row.frame), None)
            if info is None:
                failed[row.path] = result.without(row.frame)
            else:
                now = result.sha256, info.width, info.height
                frame.loc[row.Index, ["sha256", "width", "height"]] = now
                changed += result.sha256 != row.sha256
        frame.loc[frame["mask_path"] == "", "mask_area"] = ""
        for i, reason in measure_masks(frame, data.joinpath).items():
            why = f"its mask {frame.at[i, 'mask_path']} {reason}"
            remedy = "put it back or correct it; or empty its mask_path"
            failed.setdefault(frame.at[i, "image_id"], f"{why} - {remedy}")
        write_manifest(frame, manifest)
    counts = {"added": 0, "removed": 0, "changed": changed}
    return AddSummary(dataset, manifest, frame, failed=failed, changed=counts)
