"""Every label and sentence of the report and of results/README.md.

Constants with braces are templates for `str.format`. Functions take plain values or the loaded
tables; nothing here computes a figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.blocks import interval_text, is_known, join, number, percent, plural, share

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.report.data import Block, Dataset, Difference

# Names ---------------------------------------------------------------------------------------
LEARNERS = {"zero-shot": "Zero-shot", "linear-probe": "Linear probe", "medfocus": "MedFocus",
            "medfocus-probe": "MedFocus probe"}  # fmt: skip
VIEWS = {"whole": "whole image", "masked": "masked image", "crop": "crop to the mask",
         "binary": "mask alone", "oracle": "ground-truth mask", "random": "random region",
         }  # fmt: skip
PROTOCOLS = {
    "official": "Published split",
    "grouped": "Grouped cross-validation",
    "grouped-pooled": "Grouped, folds pooled",
    "ground_truth": "Published split, images with a ground-truth mask",
    "grouped_truth": "Grouped, images with a ground-truth mask",
    "grouped_truth-pooled": "Grouped and pooled, images with a ground-truth mask",
}
SUBSETS = {"full": "", "clean": ", without copies", "clean_any": ", without (mirrored) copies"}
VERDICTS = {"better": "better", "worse": "worse", "no difference": "no difference",
            "too few": "too few images"}  # fmt: skip
METRICS = {
    "accuracy": ("Accuracy, %", 100, 1),
    "balanced_accuracy": ("Balanced accuracy, %", 100, 1),
    "macro_f1": ("Macro F1, %", 100, 1),
    "macro_auroc": ("Macro AUROC", 1, 3),
    "ece": ("ECE", 1, 3),
    "brier": ("Brier score", 1, 3),
}
"""Name, factor and decimals of each metric."""
CLASS_METRICS = {"precision": "Precision, %", "recall": "Recall, %", "f1": "F1, %"}
OUTCOMES = {"ok": "used", "empty": "empty: whole image used",
            "full": "full frame: whole image used", "failed": "failed"}  # fmt: skip
FLOORS = {"random": "floor: the same shape elsewhere",
          "ellipse": "floor: a central ellipse of the same area"}  # fmt: skip
STRATEGIES = {
    "salient": "no prompt",
    "salient-refine": "no prompt, then a box around the result",
    "auto": "a grid of points",
    "center-box": "a box in the centre",
    "full": "the whole frame",
    "box": "box of the true region, jittered",
    "points": "one point inside the true region",
    "box-ellipse": "the ellipse in that box, without a model",
}
KINDS = {
    "byte": "identical files",
    "near": "near copies (saved again, resized, brightened, shifted)",
    "mirror": "mirror images",
    "turn": "rotated copies",
}
OTHER_SET = {
    "lung": "The paper's lung data set is a different one: it has five classes (bacterial and "
    "viral pneumonia, COVID-19, tuberculosis, normal) and 2,025 test images. Its figures cannot "
    "be compared with ours.",
}
COPIES_INSIDE = ("brain", "covid")
"""Sets of which the paper used the published split, which holds copies of training images."""

# Page ----------------------------------------------------------------------------------------
TITLE = "Few-shot classification of masked medical images"
BRAND = "MedFocusCLIP"
SUBTITLE = (
    "Does an image classifier with few labels do better when SAM2 masks out the background "
    "before CLIP encodes the image?"
)
OVERVIEW, SKIP, CONTENTS, LEGEND = "Overview", "Skip to the content", "Contents", "Runs"
SYNTHETIC, READING = "Synthetic data", "How to read this page"
SYNTHETIC_SETS = (
    "Synthetic data: {}. These images are computer-drawn phantoms; the figures say nothing about "
    "patients."
)
MISSING_FILES = "Not everything has been made. What is missing, and the command that makes it:"
PLOT_TABLE, TABLE, CLOSE = "Values", "table", "Close"
TRUE_CLASS, CALLED, RECALL = "True class", "called {}", "Recall, %"
NOT_EVALUATED, NO_VERDICT = "not evaluated", "No comparison yet."
SIZE = "{}, {}"
SHORT_COPIES = "{} % of test images have a copy in training"
SHORT_DICE = "Dice of the masks {}"
SHORT_LARGEST = "largest class ({}) {} %"
OVERVIEW_CURVE = "Accuracy by share of labels, {}, {}"
UNFINISHED = "The last run of {} {}; figures are of an earlier run. Run: {}"
STATUS = {"error": "stopped with an error", "interrupted": "was interrupted",
          "running": "was killed or is still running"}  # fmt: skip
LOST = "{} cannot be read from the store: {}. Run: {}"


def how_to_read(params: Params) -> list[str]:
    """Return the few rules that a reader of any figure needs."""
    level = share(params.evaluate.confidence)
    return [
        f"Each accuracy is a mean over {plural(len(params.train.seeds), 'seed')}; a seed draws "
        f"other training images. Brackets and bands are {level} intervals over seeds and test "
        "images, resampled by patient, group and copies where these are known.",
        f"A verdict compares a run with “{params.study.runs[0].name}” on the same images and "
        f"seeds. Better and worse mean that the {level} interval excludes zero and p is below "
        "0.05 after Holm's correction for all comparisons of that split and share of labels; "
        "anything else counts as no difference. † marks an interval that excludes zero without "
        "passing the correction.",
        "Verdicts use the strictest split available: in grouped cross-validation no patient, group "
        "or known copy is both in training and in test. Figures on a published split can be too "
        "high where it holds copies of training images.",
        "The number of labels counts training and validation images together; "
        f"{share(params.splits.val)} of them, in whole patients and groups, are for validation.",
        f"Models: {params.models.sam2.name} for masks, {params.models.clip.name} for features. "
        "Nothing here is fit for diagnosis.",
    ]


def run(learner: str, view: str) -> str:
    """Name a run: "Linear probe, masked image"."""
    return f"{LEARNERS.get(learner, learner)}, {VIEWS.get(view, view)}"


def block(data: Dataset, key: Block) -> str:
    """Name a protocol and subset of a dataset."""
    name = PROTOCOLS.get(key[0], key[0])
    if data.drawn_split:
        name = name.replace("Published split", "Split drawn here")
    return name + SUBSETS.get(key[1], f", {key[1]}")


def labels(fraction: float) -> str:
    """Name a share of the labels in a sentence."""
    return "all labels" if fraction >= 1 else f"{share(fraction)} of labels"


def points(d: Difference) -> str:
    """Format a difference in percentage points with its interval."""
    value, lo, hi = (percent(v, sign=True) for v in (d.value, d.lo, d.hi))
    return f"{value} [{lo}, {hi}]" if is_known(d.lo) and is_known(d.hi) else value


def marked_verdict(d: Difference) -> str:
    """Return the verdict, with † where only the interval excludes zero."""
    excludes = is_known(d.lo) and (d.lo > 0 or d.hi < 0)
    mark = "†" if excludes and d.verdict == "no difference" else ""
    return VERDICTS.get(d.verdict, d.verdict) + mark


DIFFERENCE_AT = "{} points with {}"

# Pictures ------------------------------------------------------------------------------------
MASK, TRUTH = "mask", "ground truth"
EXAMPLE_WHOLE, EXAMPLE_MASK, EXAMPLE_MASKED = "image", "mask", "masked image"
EXAMPLE_FALLBACK = "no usable mask: whole image"
NO_MASK, FAILED_MASK = "no mask in the store", "segmentation failed"
NOT_IN_MANIFEST = "not in the manifest"
OUTLINES = "Orange line: predicted mask. Blue dashes: ground truth, where there is one."
LOST_MASK, UNREADABLE = "mask lost: {}", "cannot be shown: {}"
WRONG_SIZE = "the {} has another size than the image"

# Files that do not belong together -----------------------------------------------------------
OTHER_LABELS = "of other labels than those of the manifest"
OTHER_EVALUATION = "of another evaluation than metrics.parquet"
NO_METRICS = "without metrics.parquet, which states what it was made from"

# Accuracy ------------------------------------------------------------------------------------
ACCURACY, PROTOCOL, CURVE = "Accuracy", "Protocol", "Accuracy by share of labels"
ACCURACY_SUMMARY = "curves, intervals and differences"
ACCURACY_AXIS, LABELS_AXIS = "accuracy, %", "share of the training labels (number of labels)"
STUDY_TABLE, ALL_RUNS = "Accuracy in percent", "Every run"
RUN, COMPARISON, DATASET, SPLIT = "Run", "Comparison", "Data set", "Split"
ACCURACY_NOTE = "Mean over the seeds [{} interval]. "
LARGEST_CLASS = "Largest class"
ALWAYS_LARGEST = "Always answering the largest class ({}) is right in {} %."
LABELS_HEADER = "{} ({})"
MEASURES_CAPTION = "Other measures, {}"
MEASURES_NOTE = (
    "ECE: expected calibration error, 0 to 1. Brier score: 0 to 2. Lower is better for both."
)
DIFFERENCES, MINUS = "Paired differences in accuracy, percentage points", "{} − {}"
DIFFERENCES_NOTE = "[{} interval], verdict after Holm's correction; † interval alone excludes zero."
NOTES, PLAN_NOTES = "Notes: {}.", "Notes on the splits"
BROKEN, BROKEN_RUNS = "Failed and diverged fits", "{:,} of {} failed or diverged."
BROKEN_HEADERS = ("Status", "Protocol", "Run", "Share of labels", "Seed", "Reason")
GLANCE = "All splits"
GROUPED_TEXT = "No patient, group or known copy is both in training and in test."
UNAWARE_TEXT = "No patient or group is both in training and in test. Copies were not searched for."
PUBLISHED_TEXT = "The data set's own test part."
DRAWN_TEXT = "The data set has no test part; this one was drawn in whole patients and groups."
CLEAN_TEXT = " Test images with a copy in training are left out."


def about_block(data: Dataset, key: Block) -> str:
    """Say what a protocol means and how many test images it has."""
    text = ""
    if key[0].startswith("grouped"):
        text = GROUPED_TEXT if data.audited else UNAWARE_TEXT
    elif key[0] == "official":
        text = (DRAWN_TEXT if data.drawn_split else PUBLISHED_TEXT) + (
            CLEAN_TEXT if key[1] != "full" else ""
        )
    row = data.tested.get(key)
    return f"{text} {plural(row.n_images, 'test image')}." if row is not None else text


def plan_note(data: Dataset, note: str) -> str:
    """Put the name of the protocol before a note of the plan of the splits."""
    name, colon, text = note.partition(": ")
    known = colon and name in PROTOCOLS
    return f"{block(data, (name, 'full'))}: {text}." if known else f"{note}."


def glance_note(done: Sequence[Dataset]) -> str:
    """Say what the columns hold and which splits are incomplete."""
    level = share(done[0].params.evaluate.confidence)
    text = f"Accuracy in percent [{level} interval]. Largest class: what always answering it gets. "
    unaware = [d.name for d in done if not d.audited]
    text += f"Copies were not searched for in {join(unaware)}. " if unaware else ""
    parts = [
        f"{d.name}: {note.removeprefix('official: ')}."
        for d in done
        for note in d.notes
        if note.startswith("official: ") and note.endswith(("take no part", "are left out"))
    ]
    return text + " ".join(parts)


# Ground-truth masks --------------------------------------------------------------------------
TRUTH_SECTION = "Ground-truth masks: the ceiling"
TRUTH_SUMMARY = "what a perfect mask and a random region would give"
TRUTH_CURVE, TRUTH_TABLE = "Accuracy by view", "Accuracy in percent, by view"
TRUTH_TEXT = (
    "The same learner on each view of the images that have a ground-truth mask. The ground-truth "
    "mask shows what a perfect mask would give; a random region of the same shape shows what any "
    "such window gives."
)
NO_TEST_IMAGE = "No test image of {} has a ground-truth mask."

# Masks ---------------------------------------------------------------------------------------
GALLERY, GALLERY_SUMMARY = "Images and masks", "{:,} of {:,} masks unusable"
GALLERY_NOTE = (
    "Sorted by the probability of the true class (mean over the seeds): the first half are the "
    "worst images, the others are spaced evenly up to the best."
)
GALLERY_TITLE = "Test images, “{}” with {} ({})"
NO_PREDICTIONS = "No predictions yet: images in the order of the manifest"
CASE, CASE_CALLED = "{}; p(true) {}", "{}, called {}; p(true) {}"
FLIP = "{}: {} → {}; right in {} → {} of {}"
MORE_OFTEN = "“{}” is right more often than “{}”: {:,} of {}"
LESS_OFTEN = "“{}” is right less often than “{}”: {:,} of {}"
OUTCOME_TITLE = "Mask {}: {:,} of {}"
QUALITY = "Mask quality"
QUALITY_SUMMARY = "outcomes, areas, and Dice by class and prompt strategy"
STORED, STORED_STRATEGY = "stored masks", "stored masks ({})"
NO_TRUTH = "The data set has no ground-truth masks to compare with."
ALL_CLASSES, ALL_CLASSES_TEST = "all classes", "all classes, test part"
CLASS, IMAGES, TEST_IMAGES, YES, NO = "Class", "Images", "Test images", "yes", "no"
DICE, AREA = "Dice", "share of the image"
DICE_HISTOGRAM, AREA_HISTOGRAM = "Dice of each mask", "Area of the masks"
IMAGES_AXIS, IMAGE_COUNTS, RANGE = "images, %", "Number of images.", "{}–{}"
OUTCOMES_CAPTION = "Outcome of segmentation by class"
DICE_CAPTION = "Masks compared with ground truth"
DICE_HEADERS = ("Masks", "Class", "Images", "Dice", "IoU", "HD95, px", "Dice < 0.1, %")
DICE_NOTE = "HD95: 95th percentile of the distance between the outlines, over non-empty masks."
DICE_LACKING = " Images without a figure, left out of every mean: {}."
PROMPT_CAPTION = "Every prompt strategy on a sample of images"
PROMPT_HEADERS = ("Strategy", "Uses the ground truth", "Images", "Dice", "IoU", "HD95, px")
PROMPT_NOTE = (
    "Strategies that use the ground truth are references for judging SAM2; no classified mask was "
    "made with them."
)
WORST_MASKS, MISSED = "Masks with the smallest Dice", "{:,} of {} miss the region (Dice below 0.1)."
EFFECT = "Does a better mask help the classifier?"
EFFECT_HEADERS = ("Dice", "Images", "Change of the true class's probability")
EFFECT_AXIS, BIN_MEAN = "change of p(true), {}", "mean of a quarter"
EFFECTS = {
    "too few": "Too few images to tell.",
    "more": "Images with a better mask gain more or lose less.",
    "less": "Images with a better mask gain less or lose more.",
    "no difference": "Not measurably: the interval includes zero.",
}
SPEARMAN = "{} Spearman's rank correlation within classes: {}, {}."
SEEN = (
    "{} was trained on the ground-truth masks, not the labels, of {} of this data set ({}): its "
    "masks here are not a result on unseen images."
)
SEEN_PATIENTS = " {:,} of {:,} test images are of a patient that it has seen."


def strategy(name: str, *, used: bool) -> str:
    """Name a prompt strategy, and mark the one of the stored masks."""
    text = f"{name}: {STRATEGIES[name]}" if name in STRATEGIES else name
    return f"{text} (stored masks)" if used else text


def dice_note(quality: Any) -> str:
    """Say what HD95 is over, and which images have no figure and why."""
    reasons = quality.loc[quality["dice"].isna(), "note"].str.split(":").str[0].value_counts()
    listed = join(f"{name} {n:,}" for name, n in sorted(reasons.items()))
    return DICE_NOTE + (DICE_LACKING.format(listed) if listed else "")


def effect(found: Any) -> str:
    """Answer from the rank correlation and its interval."""
    rho = interval_text(found.rho, found.lo, found.hi, digits=2)
    return SPEARMAN.format(EFFECTS[found.verdict], rho, plural(found.n_images, "image"))


def trained_on(data: Dataset) -> str:
    """Say how many images SAM2's weights were trained on; "" where none is known."""
    found = data.seen
    if found is None:
        return ""
    parts = join(f"{n:,} of {part or 'no part'}" for part, n in found.parts.items())
    text = SEEN.format(found.model, plural(found.images, "image"), parts)
    return text + (SEEN_PATIENTS.format(found.patients, found.test) if found.patients else "")


# Heat maps -----------------------------------------------------------------------------------
HEAT, HEAT_SUMMARY = "Where CLIP sees the class text", "patch–text similarity"
HEAT_TEXT = (
    "Cosine similarity of each place to the text of the image's true class, from dark blue "
    "(least) to yellow (most), each image on its own scale. CLIP's patches were not trained to be "
    "compared with text: read tendencies, not borders."
)
NO_HEAT = "No heat maps: {}"
OTHER_MODEL = "the features were made by another model than the one that params.yaml names ({})"
OTHER_VALUE = "{}: {} in the store, {} in params.yaml"
SIMILARITY, HEAT_ALT = "similarity to “{}”: {} to {}", "heat map of {} for {}"

# Errors and calibration ----------------------------------------------------------------------
ERRORS, ERRORS_SUMMARY = "Errors by class", "confusion matrices with the images behind them, {}"
CLASS_CAPTION = "Precision, recall and F1 of each class"
CONFUSION_CAPTION = "{}: mean count over the seeds. Choose a cell to see its images."
CONFUSION_LABEL, CELL_CAPTION = "{} called {}: {}", "{} of {}; p(true) {}"
CALIBRATION, CALIBRATION_SUMMARY = "Calibration", "how far confidence can be trusted"
CONFIDENCE_AXIS, RIGHT_AXIS = "mean confidence, %", "right, %"
RELIABILITY_TITLE = "Reliability with {}"
BIN_HEADERS = ("Run", "Mean confidence, %", "Right, %", "Predictions")
ECE_CAPTION = "Expected calibration error"
ECE_NOTE = "0 is perfect. Hollow points in the plots are bins of fewer than {} predictions."
COPIES_OF = ". {:,} of {} have a copy in training"


def shown_on(data: Dataset, key: Block, fraction: float | None, copies: Any) -> str:
    """Name the split of a section, and the copies in it where it is the published one."""
    text = block(data, key) + (f", {labels(fraction)}" if fraction else "")
    if key[0] == "official" and copies is not None:
        text += COPIES_OF.format(copies.all, plural(copies.test, "test image"))
    return f"{text}."


# The paper -----------------------------------------------------------------------------------
QUOTED_SECTION, QUOTED_SUMMARY = "The paper's figures", "quoted next to ours"
ARCHITECTURE, OUR_RUN = "Architecture in the paper", "Our run"
QUOTED_CAPTION = "Accuracy in percent: quoted from the paper, and ours on the published split"
QUOTED_NAME, QUOTED_HEADER, OURS_HEADER = "{} (quoted)", "quoted, {}", "ours, {}"
QUOTED_TEXT = (
    "Columns marked “quoted” are copied from the paper's table {}: single runs without intervals, "
    "with larger models{}."
)


def quoted_text(data: Dataset, table: str) -> str:
    """Say what the quoted figures are, and on which split they were measured."""
    where = "" if data.name in OTHER_SET else ", on a split that is not published"
    if data.name in COPIES_INSIDE:
        where = ", on the published split, which holds copies of training images"
    return QUOTED_TEXT.format(table, where)


# Copies --------------------------------------------------------------------------------------
COPIES = "Copies across the split"
COPIES_SUMMARY, NO_TEST_PART = "{:,} of {} have a copy in training", "no published test part"
COPY_HEADERS = ("Published split", "Images", "% of test")
COPY_ROWS = ("test images", "with a copy in training", "the same, mirrored or rotated copies too")
COPY_CAPTION = "Test images with a copy in training"
KIND_HEADERS = ("Kind of copy", "Pairs", "Across the split", "With different labels")
KIND_CAPTION, ACROSS = "Pairs of copies", "Across the split: {}"
CONFLICTS, WITHIN = "Copies with different labels", "Copies within one part"
NO_PAIRS, AUDIT_COUNTS = "The audit found no copies.", "All counts and parameters of the audit"
PAIRS_TITLE, PAIR = "{} ({})", "pair {}: {}, {}"
NO_PART = "no part"
CLASS_MIX = (
    "Baseline with all labels: {} % on the whole test part, {} % without copies. Weighted to the "
    "classes of the latter, the whole part reaches {} %; only the rest of the difference can be "
    "due to copies."
)

# Records -------------------------------------------------------------------------------------
RECORDS, RECORDS_SUMMARY = "Data, runs and failures", "{}, hashes, times and versions"
VALUE_HEADERS, LOST_HEADERS = ("Name", "Value"), ("Image", "Reason")
FAILURE_HEADERS = ("Stage", "Image", "Reason")
FAILURES, NO_FAILURES = "{}.", "No image failed in any stage."
LOST_MASKS = "Masks that the store lists but cannot give"
TIMES = "Last run of each stage"
TIMES_NOTE = (
    "Counts and times are of the last run that computed anything; the status is of the last run."
)
TIME_HEADERS = (
    "Stage", "Status", "Started (UTC)", "Done", "Skipped", "Failed", "Total, s", "Loading, s",
    "Model, s", "Writing, s",
)  # fmt: skip
MANIFEST = "data_manifests/{}.csv"
IDENTITIES = "Identities of the stores, parameters and versions of each stage"
MASK_STORE, FEATURE_STORE = "Identity of the mask store", "Identity of the feature store"
RECORD = "Parameters and versions of {}"
NO_REASON = "no reason recorded"
SKIPPED = "Files that `data add` did not take as images: {}."
LEFT_OUT = "Ground-truth masks left out of {}: {}."
MADE, MADE_SUMMARY = "How this page was made", "commit {}, profile {}"
MADE_TEXT = "These commands make the files behind this page, and the page:"
VERSIONS, PARAMETERS = "Versions", "Parameters (params.yaml)"
DIFFERS = "Some results were made with other parameters than those listed below:"
DIFFERS_IN = "{} in the run of {}"
NO_GIT, NOT_INSTALLED = "not in a git checkout", "not installed"
CHANGED_COMMIT = "{}, with local changes"


def left_out(masks: Mapping[str, str]) -> str:
    """Name the images whose ground-truth mask `data add` did not take, and why."""
    named = "; ".join(f"{name}: {why}" for name, why in list(masks.items())[:8])
    rest = f"; and {len(masks) - 8:,} more" if len(masks) > 8 else ""
    return LEFT_OUT.format(plural(len(masks), "image"), named + rest)


def case(r: Any) -> str:
    """Caption an image of the gallery: its class, what it was called, how sure the run was."""
    if r.y_true == r.y_pred:
        return CASE.format(r.y_true, number(r.p_true))
    return CASE_CALLED.format(r.y_true, r.y_pred, number(r.p_true))


# results/README.md ---------------------------------------------------------------------------
RESULTS, FILES, AGAIN = "Results", "Files", "Making these results again"
LABELS, MANIFEST_SHA256 = "Labels", "SHA-256 of the manifest"
FIGURE_ALT = "Accuracy by share of labels, a panel for each data set"
FIGURE_CAPTION = (
    "Accuracy by share of labels on the strictest split of each data set; bands are intervals, the "
    "dotted line is what always answering the largest class gets."
)
RESULTS_NOTE = (
    "Accuracy in percent [interval], then the verdict against the first run. Labels: share and "
    "number. Columns marked “quoted” are copied from the paper (single runs, larger models, "
    "published split)."
)
FILES_TEXT = (
    "`<data set>.csv.gz` holds every metric of every run, by seed and over all seeds (`seed` "
    "= all): `lo`, `hi` are the interval over seeds and test images, `t_lo`, `t_hi` the one over "
    "seeds alone, and `note` says why an interval is missing. `<data set>_comparisons.csv.gz` "
    "holds every paired difference with its p-values. `docs/tables.md` describes the columns."
)
AGAIN_TEXT = (
    "From the images of each data set to this page; docs/notes/2026-11-benchmarks.md has the "
    "options of `data add`. The same manifest has the same hash."
)
RESULTS_MADE = (
    "Made by `{}` at commit `{}`, profile `{}` ({}, {}), prompt `{}`. Do not edit by hand."
)
NO_RESULTS, NONE_EVALUATED = "{} has not been evaluated: `{}`", "no dataset has been evaluated"
COMMIT = "# commit {}"
