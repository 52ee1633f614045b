"""`pipeline data add` and `data refresh`: write or change a manifest, and what they report."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import DATASET_NAME
from pipeline.engine.record import ADD, RunRecord, library_versions
from pipeline.errors import ManifestError, printable, shown
from pipeline.images import MaskRule, has_image_suffix
from pipeline.intake import known, rows
from pipeline.intake.at_url import fetch
from pipeline.intake.find import Findings, extracted, how_to_convert, read_folder
from pipeline.intake.folders import split_names
from pipeline.intake.user_tables import TableRules, read_image_tables
from pipeline.io import FileHashes, manifest_lock, remove_leftovers, writing
from pipeline.manifest import COLUMNS, check_rows, read_manifest, write_manifest
from pipeline.paths import Paths
from pipeline.remote import is_url

ARCHIVES = (".gz", ".tgz", ".tar", ".7z", ".rar", ".bz2", ".xz")
LISTED = 20  # failed files in the text
# Columns in which the old and the new manifest must not contradict each other.
DECIDED = ("label", "split", "patient_id", "group", "fold", "synthetic")


@dataclass
class AddSummary:
    """What `add_dataset` did; counts is split ("" = none) -> label -> number of images."""

    dataset: str
    manifest: Path
    frame: pd.DataFrame = field(repr=False)  # the rows of the manifest
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> number of files left out
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it cannot be read
    masks_left_out: dict[str, str] = field(default_factory=dict)  # image_id -> why
    warnings: list[str] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)  # rows added, removed and changed
    notes: list[str] = field(default_factory=list)  # what was taken for what

    def __post_init__(self) -> None:
        self.images = len(self.frame)
        self.masks = int((self.frame["mask_path"] != "").sum())
        self.patients = len(set(self.frame["patient_id"]) - {""})
        self.counts: dict[str, dict[str, int]] = {}
        for (split, label), count in self.frame.groupby(["split", "label"]).size().items():
            self.counts.setdefault(split, {})[label] = int(count)

    def to_json(self) -> dict[str, Any]:
        """Return all attributes but the rows as JSON values."""
        values = vars(self) | {"manifest": self.manifest.as_posix()}
        return {name: value for name, value in values.items() if name != "frame"}

    def text(self) -> str:
        """Return the lines that `pipeline data add` prints."""
        lines = [f"{self.manifest}: {self.images} images"]
        for split in sorted(self.counts, key=["train", "val", "test", ""].index):
            labels = self.counts[split]
            listed = ", ".join(f"{label} {n}" for label, n in labels.items())
            lines.append(f"  {split or 'no split'}: {sum(labels.values())} ({listed})")
        changes = ", ".join(f"{n} {what}" for what, n in self.changed.items() if n)
        lines.append(f"  ground-truth masks: {self.masks}, patients: {self.patients or 'unknown'}")
        lines.append(f"  since the last manifest: {changes or 'nothing changed'}")
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  skipped {n}: {reason}" for reason, n in sorted(self.skipped.items())]
        failed = [f"  FAILED {printable(path)}: {why}" for path, why in self.failed.items()]
        lines += failed[:LISTED]
        if more := len(failed[LISTED:]):
            lines.append(f"  FAILED: {more} more")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def add_dataset(
    dataset: str,
    source: str | Path | Sequence[str | Path],
    *,
    table: TableRules = TableRules(),
    replace: bool = False,
    paths: Paths | None = None,
    masks: str | Path | None = None,
    mask_name: str = "",
    layout: str = "",
    split_name: Sequence[str] | None = None,
    max_rank: int | None = 5,
    mask_rule: str = "",
    groups: str | Path | None = None,
    patient_regex: str | None = None,
    on_shared_patient: str | None = None,
    synthetic: bool = False,
    force: bool = False,
) -> AddSummary:
    """Write data_manifests/<dataset>.csv from a folder, CSV or zip of images, here or at a URL.

    The images stay where they are: data/<dataset> becomes a link to their folder (a zip is
    extracted there); what is at a URL is copied first, see `fetch`. If data_root is a URL, they
    must be there. Either everything is written or nothing. Adding the same source again brings the
    manifest up to date; the images of another version of a zip must be put into the folder by the
    user. What is left out is also recorded in cache/<dataset>/records/add.json.

    Args:
        dataset: letters, digits, "_" and "-".
        source: folder `[split/]class/[patient/]image`; CSV with columns path and label, or several
            of them; or zip of a folder. This and `masks`, `groups`, `table.images` may be URLs.
        table: how a CSV is read where its names do not decide.
        replace: take rows out of the manifest that a CSV does not list; else they stay.
        paths: the project folder; default: the current one.
        masks: ground truth: a folder like that of the images, or a CSV (path, mask, rank).
            Default: files named for an image next to them (`x_mask.png`), and folders next to
            those of images. "none": there is none, every file is an image.
        mask_name: glob of the paths of masks, where names do not say it or an image has several.
        layout: what each level of folders is, e.g. `split/class/patient/*`; see `read_folder`.
        split_name: further names of splits, such as "holdout=test".
        max_rank: rows of such a CSV with a higher rank are left out.
        mask_rule: words of `MaskRule` that say how all masks are read. Default: that of the table
            or of the last time, else the content of each file decides.
        groups: CSV of known groups (path or image_id; group, series, slice, fold, patient_id).
        patient_regex: regular expression; its first group that matches a path is the patient.
            Default: known naming schemes, DICOM headers (by a one-way code), folders.
        on_shared_patient: a patient in two splits is an "error"; or the images are taken out of
            one split ("drop-train", "drop-test") and stay in the manifest without a split. Default:
            "error" for patients that a table states; else "drop-train", since publishers often
            split by file, so that the official test part stays complete.
        synthetic: the images are phantoms.
        force: replace a manifest of other images, or one that contradicts the new rows.

    Raises:
        ManifestError: nothing usable, or a problem that needs a decision; nothing was written.
        DiskError: a folder cannot be written, or the disk is full; nothing was written.
    """
    if not re.fullmatch(DATASET_NAME, dataset):
        what = f"{dataset!r} is not a valid dataset name"
        raise ManifestError(what, remedy="use letters, digits, _ and -")
    if on_shared_patient not in (None, "error", *rows.SPLIT_PRIORITY):
        what = f"--on-shared-patient {on_shared_patient!r} is not known"
        raise ManifestError(what, remedy=f"use error, {' or '.join(rows.SPLIT_PRIORITY)}")
    paths = paths or Paths()
    given = [source] if isinstance(source, str | Path) else list(source)
    urls = [str(one) for one in (*given, masks, groups, table.images) if one and is_url(one)]
    here = partial(fetch, paths=paths)
    sources = [here(one, beside=table.images is None) for one in given]
    table = TableRules(**vars(table) | {"images": table.images and here(table.images)})
    masks, groups = masks and here(masks, beside=True), groups and here(groups)
    source, manifest, place = sources[0], paths.manifest(dataset), paths.data(dataset)
    url, place = (place, paths.fetched(place)) if is_url(place) else (None, place)
    if len(sources) > 1 and (no_table := [s for s in sources if s.is_dir() or s.suffix == ".zip"]):
        what, remedy = "is no table; only these can be several", "pass the folder above them all"
        raise ManifestError(what, path=no_table[0], remedy=remedy)
    names = split_names(split_name or ())
    no_masks = str(masks) == "none"
    if masks is not None and (no_masks or same_folder(source, masks)):
        masks = None  # or they are next to the images
    remove_leftovers(place)
    with manifest_lock(manifest), extracted(source, place) as folder:
        if not folder.exists():
            raise ManifestError("no such folder, CSV or zip", path=folder, remedy="check --from")
        if folder.is_file() and (how := how_to_convert(folder)):
            what, _, remedy = how.partition(" - ")
            raise ManifestError(f"holds {what}, no table", path=folder, remedy=remedy)
        if has_image_suffix(folder.name) or folder.suffix.lower() in ARCHIVES:
            what, remedy = "is no folder, CSV or zip", "unpack it, or pass the folder of the images"
            raise ManifestError(what, path=folder, remedy=remedy)
        if folder.is_dir():
            if table != TableRules():
                what = "options of tables were given, but this is a folder"
                raise ManifestError(what, path=source, remedy="pass a CSV, or omit them")
            findings = read_folder(
                folder,
                masks=masks,
                no_masks=no_masks,
                mask_name=mask_name,
                layout=layout,
                split_names=names,
            )
        else:
            if layout:
                what = "--layout says what folders are, but this is a table"
                raise ManifestError(what, path=source, remedy="omit it, or pass the folder")
            rules = TableRules(**vars(table) | {"split_names": names})
            findings = read_image_tables([folder, *sources[1:]], rules)
        findings.home = place if folder != source else None
        places = [one if one.is_dir() else one.parent for one in (folder, *sources[1:])]
        known.join_split_lists(findings, [*places, findings.root], names)
        hashes = FileHashes(paths.hashes(dataset))
        if url is not None and not same_folder(place, findings.root):
            what = f"data_root is a URL, and the images are not there, but in {findings.root}"
            remedy = "pass this URL as --from, or set data_root: data"
            raise ManifestError(what, path=url, remedy=remedy)
        in_place = is_in_place(place, findings, manifest=manifest, force=force)
        if masks is not None:
            known.join_masks(findings, masks, max_rank=max_rank, mask_name=mask_name)
        if groups is not None:
            known.join_groups(findings, groups)
        stated = known.fill_in_patients(findings, patient_regex)
        if layout:
            known.patients_from_folders(findings.images, findings)

        frame, lines = rows.build_rows(findings, place, hashes, synthetic=synthetic)
        if frame.empty:
            first = next((f"; {name}: {why}" for name, why in findings.failed.items()), "")
            what = f"none of {len(findings.images)} images can be read{first}"
            raise ManifestError(what, path=source, remedy="check the files")
        if not no_masks:
            rows.refuse_pages_of_masks(frame, findings.file)
        findings.warnings += known.without_lone_patient(frame)
        if not (frame["patient_id"] != "").any() and not layout:
            known.patients_from_folders(frame, findings)
        if not (frame["patient_id"] != "").any():
            findings.warnings += known.patient_hint(frame, not layout)
        findings.notes[:0] = files_and_rows(frame, findings)
        old = read_existing(manifest, force=force)
        set_mask_rule(frame, str(mask_rule), old)
        masks_found = rows.measure_masks(frame, findings.file)
        masks_found.refuse_if_unclear(frame)
        frame.loc[list(masks_found.bad), "mask_path"] = ""
        unusable = masks_found.unusable(frame)
        for why, count in Counter(unusable.values()).most_common(LISTED):
            named = shown(name for name, other in unusable.items() if other == why)
            findings.warnings.append(f"{count} ground-truth masks are left out: {why} ({named})")
        findings.warnings += masks_found.lines()
        kept = old[~old["path"].isin(findings.listed)]
        if folder.is_dir() or not in_place or replace:
            kept = kept.iloc[:0]
        if len(kept):
            frame, lines = with_others(frame, lines, kept, manifest)
            what = f"{len(kept)} images that are in no table named here stay in the manifest"
            findings.notes.append(f"{what} (--replace removes them)")
        how = on_shared_patient or ("error" if stated else "drop-train")
        if how != "error":
            findings.warnings += rows.keep_in_one_split(frame, how)
        check_rows(frame, lines, source)
        frame, changed = merge_existing(
            frame, old, manifest, same_source=in_place, kept=kept["image_id"], force=force
        )
        # The old manifest may know an older mask of these.
        frame.loc[frame["image_id"].isin(unusable), ["mask_path", "mask_area"]] = ""

        # Images and manifest are put in place together, once nothing else can fail.
        write_manifest(
            frame, manifest, before_replace=lambda: in_place or put_in_place(place, findings)
        )
        hashes.save()  # the stages need not read the images again to know them
        # What is not in the manifest is recorded here: no later stage can report it.
        skipped = dict(sorted(findings.skipped.items()))
        RunRecord(
            ADD,
            dataset,
            status="failed" if findings.failed else "ok",
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            total=len(frame) + len(findings.failed),
            done=len(frame),
            failed=findings.failed,
            versions=library_versions(("medfocusclip", "numpy", "pillow")),
            parameters={"skipped": skipped, "masks_left_out": unusable, "fetched": urls},
        ).write(paths.record(dataset, ADD))
    warnings = findings.warnings + rows.row_warnings(frame)
    left_out = (skipped, findings.failed, unusable)
    return AddSummary(dataset, manifest, frame, *left_out, warnings, changed, findings.notes)


def refresh_dataset(dataset: str, *, paths: Paths | None = None) -> AddSummary:
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
        hashes, failed, changed = FileHashes(paths.hashes(dataset)), {}, 0
        measured = rows.measure_all(data, set(frame["path"]), data, hashes)
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
        for i, reason in rows.measure_masks(frame, data).bad.items():
            remedy = "put it back or correct it; or empty its mask_path"
            why = f"its mask {frame.at[i, 'mask_path']} {reason.with_remedy} - {remedy}"
            failed.setdefault(frame.at[i, "image_id"], why)
        write_manifest(frame, manifest)
        hashes.save()
    counts = {"added": 0, "removed": 0, "changed": changed}
    return AddSummary(dataset, manifest, frame, failed=failed, changed=counts)


def files_and_rows(frame: pd.DataFrame, findings: Findings) -> list[str]:
    """Return a line on the files that were found and the rows that they became, if these differ."""
    each = frame["path"].value_counts()
    if (files := findings.files or frame["path"].nunique()) == len(frame):
        return []
    many = f"{(each > 1).sum()} hold {each[each > 1].sum()} pages, frames or slices"
    left = f"{files - len(each)} are no images of a class"
    told = [many] * bool((each > 1).any()) + [left] * (files > len(each))
    return [f"{files} image files became {len(frame)} rows: {', '.join(told)}"]


# -- what a project has already, neither lost without being asked ----------------------------------


def set_mask_rule(frame: pd.DataFrame, rule: str, old: pd.DataFrame) -> None:
    """Write how masks are read into the column `mask_rule`, in place: by the rule given, else by
    that of each row, else by that of the old manifest. Raises ConfigError if it cannot be read."""
    if rule:
        MaskRule.parse(rule)
        frame["mask_rule"] = [rule if name else "" for name in frame["mask_path"]]
    elif "mask_rule" not in frame and "mask_rule" in old:
        before = old.set_index("image_id")["mask_rule"]
        frame["mask_rule"] = frame["image_id"].map(before).fillna("")


def read_existing(manifest: Path, *, force: bool) -> pd.DataFrame:
    """Return the rows of a manifest, none if there is none; with `force` also if it is unreadable,
    which else raises ManifestError."""
    try:
        if manifest.exists():
            return read_manifest(manifest)
    except ManifestError as error:
        if not force:
            error.remedy = "correct it, or pass --force to replace it"
            raise
    return pd.DataFrame(columns=COLUMNS)


def with_others(
    frame: pd.DataFrame, lines: list, others: pd.DataFrame, manifest: Path
) -> tuple[pd.DataFrame, list]:
    """Return new rows and other rows of the manifest, sorted by path and frame; and their lines."""
    lines = [*lines, *(f"{at + 2} of {manifest.name}" for at in others.index)]
    table = pd.concat([frame, others], ignore_index=True).fillna("").assign(line=lines)
    table = table.sort_values(["path", "frame"], kind="stable", ignore_index=True)
    return table.drop(columns="line"), list(table["line"])


def merge_existing(
    new: pd.DataFrame,
    old: pd.DataFrame,
    manifest: Path,
    *,
    kept: Collection[str] = (),
    same_source: bool,
    force: bool,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return new rows with the boxes, points, groups and masks that only an old manifest has (not
    with `force`); and the number of rows "added", "removed" and "changed" (other bytes). The ids
    `kept` are of old rows.

    Raises:
        ManifestError: without `force`, the old manifest is of another folder (not of the
            `same_source`), or contradicts the new rows; the message says what differs.
    """
    table = new.set_index("image_id", drop=False)
    before = old.set_index("image_id", drop=False).reindex(table.index)
    shared = before["image_id"].notna()
    counts = {
        "added": int((~shared).sum()),
        "removed": len(old) - int(shared.sum()),
        "changed": int((shared & (table["sha256"] != before["sha256"])).sum()),
    }
    if force or old.empty:
        return new, counts
    if not same_source:
        what = f"describes {len(old)} images of another folder"
        remedy = "use another dataset name, or pass --force to replace it (tables of images in "
        remedy += "several folders: pass all in one call, each with --from)"
        raise ManifestError(what, path=manifest, remedy=remedy)
    stated = shared & ~table.index.isin(list(kept))
    _refuse_contradictions(table[stated], before[stated], manifest)
    known = before.drop(columns=["split", "mask_area", "frame", "width", "height"]).fillna("")
    for name in known:
        mine = table.get(name, pd.Series("", table.index))
        table[name] = mine.mask(mine == "", known[name])
    uncounted = (table["mask_area"] == "") & (table["mask_path"] == before["mask_path"])
    table["mask_area"] = table["mask_area"].mask(uncounted, before["mask_area"])
    return table.reset_index(drop=True), counts


def _refuse_contradictions(new: pd.DataFrame, old: pd.DataFrame, manifest: Path) -> None:
    for name in DECIDED:
        differs = new[name] != old[name]
        if name != "split":  # where an empty cell is a statement too
            differs &= (new[name] != "") & (old[name] != "")
        if differs.any():
            first = differs.idxmax()
            example = f"{first}: {old.at[first, name]!r} -> {new.at[first, name]!r}"
            raise ManifestError(
                f"would be changed: {name} of {differs.sum()} images ({example})",
                path=manifest,
                remedy="give the options of the last time again (--patient-regex, --groups, "
                "--masks, --layout), or pass --force to `pipeline data add` to take the new values",
            )


def holds_phantoms(manifest: Path) -> bool:
    """Return whether all images of a manifest are phantoms; not if it is missing or unreadable."""
    try:
        return set(read_manifest(manifest)["synthetic"]) == {"1"}
    except ManifestError:
        return False


def same_folder(a: Path, b: Path) -> bool:
    """Return whether both paths exist and are the same folder."""
    return a.exists() and b.exists() and a.samefile(b)


def _same_content(a: Path, b: Path) -> bool:
    """Return whether two folders hold files of the same names and bytes only."""
    names, others = ({p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (a, b))
    return names == others and all(filecmp.cmp(a / n, b / n, shallow=False) for n in names)


def is_in_place(place: Path, findings: Findings, *, manifest: Path, force: bool) -> bool:
    """Return whether data/<dataset> holds the images found already; else it can be replaced.
    Raises ManifestError for a folder of other images, which only the user may replace."""
    if findings.home is None and same_folder(place, findings.root):
        return True
    if place.is_symlink() or not place.exists():
        return False
    # A run that was killed before it wrote the manifest may have moved the images of a zip.
    if findings.home is not None and _same_content(place, findings.root):
        return True
    phantoms = holds_phantoms(manifest)
    if force and phantoms:
        return False
    raise ManifestError(
        "holds phantoms" if phantoms else "holds other images, which --force does not replace",
        path=place,
        remedy="unpack the new images into it and pass it as --from, use another dataset name, "
        "or move it away (phantoms: pass --force)",
    )


def put_in_place(place: Path, findings: Findings) -> None:
    """Make data/<dataset> a link to the images, or move those of a zip there. Raises DiskError."""
    with writing(place):
        if place.is_symlink():
            place.unlink()  # the link only; the images stay
        elif place.exists():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if findings.home is not None:
            findings.root.rename(place)
        else:
            place.symlink_to(findings.root.resolve(), target_is_directory=True)
