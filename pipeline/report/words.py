"""Every label and sentence of the report and of results/README.md.

Functions take plain values or the loaded tables and return text; nothing here computes a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.blocks import interval_text, is_known, join, number, percent, plural, share

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.report.data import Block, Dataset, Difference

# Names ---------------------------------------------------------------------------------------
LEARNERS = {
    "zero-shot": "Zero-shot",
    "linear-probe": "Linear probe",
    "medfocus": "MedFocus",
    "medfocus-probe": "MedFocus probe",
}
VIEWS = {
    "whole": "whole image",
    "masked": "masked image",
    "crop": "crop to the mask",
    "binary": "mask alone",
    "oracle": "ground-truth mask",
    "random": "random region",
}
PROTOCOLS = {
    "official": "Published split",
    "grouped": "Grouped cross-validation",
    "grouped-pooled": "Grouped, folds pooled",
    "ground_truth": "Published split, images with a ground-truth mask",
    "grouped_truth": "Grouped, images with a ground-truth mask",
    "grouped_truth-pooled": "Grouped and pooled, images with a ground-truth mask",
}
SUBSETS = {
    "full": "",
    "clean": ", without copies",
    "clean_any": ", without copies or mirrored copies",
}
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "no difference": "no difference",
    "too few": "too few images",
}
METRICS = {
    "accuracy": ("Accuracy, %", 100, 1),
    "balanced_accuracy": ("Balanced accuracy, %", 100, 1),
    "macro_f1": ("Macro F1, %", 100, 1),
    "macro_auroc": ("Macro AUROC", 1, 3),
    "ece": ("ECE", 1, 3),
    "brier": ("Brier score", 1, 3),
}
CLASS_METRICS = {"precision": "Precision, %", "recall": "Recall, %", "f1": "F1, %"}
OUTCOMES = {
    "ok": "used",
    "empty": "empty: whole image used",
    "full": "full frame: whole image used",
    "failed": "failed",
}
FLOORS = {
    "random": "floor: the same shape elsewhere",
    "ellipse": "floor: a central ellipse of the same area",
}
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
    "lung": "The paper's lung data set is a different one: it has five classes (bacterial and viral "
    "pneumonia, COVID-19, tuberculosis, normal) and 2,025 test images. Its figures cannot be "
    "compared with ours.",
}

# Page ----------------------------------------------------------------------------------------
TITLE = "Few-shot classification of masked medical images"
BRAND = "MedFocusCLIP"
SUBTITLE = (
    "Does an image classifier with few labels do better when SAM2 masks out the background "
    "before CLIP encodes the image?"
)
OVERVIEW = "Overview"
SKIP = "Skip to the content"
CONTENTS = "Contents"
LEGEND = "Runs"
SYNTHETIC = "Synthetic data"
READING = "How to read this page"
MISSING_FILES = "Not everything has been made. What is missing, and the command that makes it:"
PLOT_TABLE = "Values"
CLOSE = "Close"
TABLE = "table"
TRUE_CLASS = "True class"
RECALL = "Recall, %"
NOT_EVALUATED = "not evaluated"
NO_VERDICT = "No comparison yet."
DETAILS = "Details"


def synthetic(names: Sequence[str]) -> str:
    return (
        f"{SYNTHETIC}: {join(names)}. These images are computer-drawn phantoms; the figures say "
        "nothing about patients."
    )


def how_to_read(params: Params) -> list[str]:
    """Return the few rules that a reader of any figure needs."""
    level = share(params.evaluate.confidence)
    seeds = len(params.train.seeds)
    baseline = params.study.runs[0].name
    return [
        f"Each accuracy is a mean over {plural(seeds, 'seed')}; a seed draws other training "
        f"images. Brackets and bands are {level} intervals over seeds and test images, resampled "
        "by patient, group and copies where these are known.",
        f"A verdict compares a run with “{baseline}” on the same images and seeds. Better and "
        f"worse mean that the {level} interval excludes zero and p is below 0.05 after Holm's "
        "correction for all comparisons of that split and share of labels; anything else counts "
        "as no difference. † marks an interval that excludes zero without passing the correction.",
        "Verdicts use the strictest split available: in grouped cross-validation no patient, group "
        "or known copy is both in training and in test. Figures on a published split can be too "
        "high where it holds copies of training images.",
        "The number of labels counts training and validation images together.",
        f"Models: {params.models.sam2.name} for masks, {params.models.clip.name} for features. "
        "Nothing here is fit for diagnosis.",
    ]


def run(learner: str, view: str) -> str:
    """Name a run: "Linear probe, masked image"."""
    return f"{LEARNERS.get(learner, learner)}, {VIEWS.get(view, view)}"


def block(data: Dataset, key: Block) -> str:
    """Name a protocol and subset of a dataset."""
    protocol, subset = key
    name = PROTOCOLS.get(protocol, protocol)
    if data.drawn_split:
        name = name.replace("Published split", "Split drawn here")
    return name + SUBSETS.get(subset, f", {subset}")


def protocol(name: str) -> str:
    return PROTOCOLS.get(name, name)


def verdict(code: str) -> str:
    return VERDICTS.get(code, code)


def size(data: Dataset) -> str:
    return f"{plural(len(data.manifest), 'image')}, {plural(len(data.classes), 'class', 'classes')}"


def short_copies(copies: Any) -> str:
    return f"{percent(copies.all / copies.test)} % of test images have a copy in training"


def short_dice(value: float, lo: float, hi: float) -> str:
    return f"Dice of the masks {interval_text(value, lo, hi, digits=2)}"


def short_largest(name: str, value: float) -> str:
    return f"largest class ({name}) {percent(value)} %"


def overview_curve(data: Dataset, key: Block) -> str:
    return f"Accuracy by share of labels, {data.name}, {block(data, key)}"


def marked_verdict(d: Difference) -> str:
    """Return the verdict, with † where only the interval excludes zero."""
    excludes = is_known(d.lo) and (d.lo > 0 or d.hi < 0)
    return verdict(d.verdict) + ("†" if excludes and d.verdict == "no difference" else "")


def points(d: Difference) -> str:
    """Format a difference in percentage points with its interval."""
    value, lo, hi = (percent(v, sign=True) for v in (d.value, d.lo, d.hi))
    return f"{value} [{lo}, {hi}]" if is_known(d.lo) and is_known(d.hi) else value


def labels(fraction: float) -> str:
    return "all labels" if fraction >= 1 else f"{share(fraction)} of labels"


def difference_at(fraction: float, d: Difference) -> str:
    return f"{points(d)} points with {labels(fraction)}"


# Pictures ------------------------------------------------------------------------------------
MASK, TRUTH = "mask", "ground truth"
EXAMPLE_WHOLE, EXAMPLE_MASK, EXAMPLE_MASKED = "image", "mask", "masked image"
EXAMPLE_FALLBACK = "no usable mask: whole image"
NO_MASK = "no mask in the store"
NOT_IN_MANIFEST = "not in the manifest"
OUTLINES = "Orange line: predicted mask. Blue dashes: ground truth, where there is one."


def lost_mask(reason: str) -> str:
    return f"mask lost: {reason}"


def unreadable(error: Exception) -> str:
    return f"cannot be shown: {error}"


def wrong_size(name: str) -> str:
    return f"the {name} has another size than the image"


# Accuracy ------------------------------------------------------------------------------------
ACCURACY, PROTOCOL, CURVE = "Accuracy", "Protocol", "Accuracy by share of labels"
ACCURACY_AXIS, LABELS_AXIS = "accuracy, %", "share of the training labels (number of labels)"
LARGEST_CLASS = "Largest class"
STUDY_TABLE = "Accuracy in percent"
ALL_RUNS = "Every run"
RUN, COMPARISON, DATASET, SPLIT = "Run", "Comparison", "Data set", "Split"
DIFFERENCES = "Paired differences in accuracy, percentage points"
GLANCE = "All splits"
MEASURES_NOTE = "ECE: expected calibration error, 0 to 1. Brier score: 0 to 2. Lower is better for both."
PLAN_NOTES = "Notes on the splits"
BROKEN = "Failed and diverged fits"
BROKEN_HEADERS = ("Status", "Protocol", "Run", "Share of labels", "Seed", "Reason")


def accuracy_summary(data: Dataset) -> str:
    n = len(data.runs) if data.runs is not None else 0
    return f"curves, intervals and differences{f' of {n:,} fits' if n else ''}"


def about_block(data: Dataset, key: Block) -> str:
    """Say what a protocol means and how many test images it has."""
    texts = {
        "grouped": "No patient, group or known copy is in training and test."
        if data.audited
        else "No patient or group is in training and test. Copies were not searched for.",
        "official": "The data set's own test part."
        if not data.drawn_split
        else "The data set has no test part; this one was drawn in whole patients and groups.",
    }
    text = texts.get(key[0].split("-")[0], "")
    if key[1] != "full":
        text += " Test images with a copy in training are left out."
    row = data.tested.get(key)
    return f"{text} {plural(row.n_images, 'test image')}.".strip() if row is not None else text


def accuracy_note(data: Dataset) -> str:
    return f"Mean over the seeds [{share(data.params.evaluate.confidence)} interval]. "


def largest_class(name: str, value: float) -> str:
    return f"Always answering the largest class ({name}) is right in {percent(value)} %."


def level(name: str, value: float) -> str:
    return f"{name} {percent(value)} %".lower()


def labels_header(fraction: float, n: int | None) -> str:
    return f"{share(fraction)} ({plural(n, 'label') if n is not None else '? labels'})"


def measures_caption(fraction: float) -> str:
    return f"Other measures, {labels(fraction)}"


def differences_note(data: Dataset) -> str:
    level = share(data.params.evaluate.confidence)
    return f"[{level} interval], verdict after Holm's correction; † interval alone excludes zero."


def minus(a: str, b: str) -> str:
    return f"{a} − {b}"


def evaluate_notes(notes: Sequence[str]) -> str:
    shown = list(dict.fromkeys(part for note in notes for part in note.split("; ")))
    return f"Notes: {'; '.join(shown[:8])}."


def plan_note(data: Dataset, note: str) -> str:
    """Put the name of the protocol before a note of the plan of the splits."""
    name, colon, text = note.partition(": ")
    if colon and name in PROTOCOLS:
        return f"{block(data, (name, 'full'))}: {text}."
    return f"{note}."


def broken_runs(bad: int, total: int) -> str:
    return f"{bad:,} of {plural(total, 'fit')} failed or diverged."


def more(n: int) -> str:
    return f"{n:,} more are not shown." if n > 0 else ""


def glance_note(done: Sequence[Dataset]) -> str:
    """Say what the columns hold and which splits are incomplete."""
    level = share(done[0].params.evaluate.confidence)
    text = f"Accuracy in percent [{level} interval]. Largest class: what always answering it gets. "
    unaware = [d.name for d in done if not d.audited]
    if unaware:
        text += f"Copies were not searched for in {join(unaware)}. "
    parts = [
        f"{d.name}: {note.removeprefix('official: ')}."
        for d in done
        for note in d.notes
        if note.startswith("official: ") and note.endswith(("take no part", "are left out"))
    ]
    return text + " ".join(parts)


# Ground-truth masks --------------------------------------------------------------------------
TRUTH_SECTION = "Ground-truth masks: the ceiling"
TRUTH_CURVE, TRUTH_TABLE = "Accuracy by view", "Accuracy in percent, by view"
TRUTH_TEXT = (
    "The same learner on each view of the images that have a ground-truth mask. The ground-truth "
    "mask shows what a perfect mask would give; a random region of the same shape shows what any "
    "such window gives."
)


def truth_summary(data: Dataset) -> str:
    return "what a perfect mask and a random region would give"


def tested_classes(data: Dataset, key: Block) -> str:
    """Name the classes without a test image on a protocol; "" if there are none."""
    row = data.tested.get(key)
    lacking = row.missing_classes if row is not None else ""
    return f"No test image of {lacking} has a ground-truth mask." if isinstance(lacking, str) and lacking else ""


# Masks ---------------------------------------------------------------------------------------
GALLERY, QUALITY = "Images and masks", "Mask quality"
GALLERY_NOTE = (
    "Sorted by the probability of the true class (mean over the seeds): the first half are the "
    "worst images, the others are spaced evenly up to the best."
)
NO_PREDICTIONS = "No predictions yet: images in the order of the manifest"
STORED = "stored masks"
NO_TRUTH = "The data set has no ground-truth masks to compare with."
ALL_CLASSES, ALL_CLASSES_TEST = "all classes", "all classes, test part"
CLASS, IMAGES, TEST_IMAGES, YES, NO = "Class", "Images", "Test images", "yes", "no"
DICE, AREA = "Dice", "share of the image"
DICE_HISTOGRAM, AREA_HISTOGRAM = "Dice of each mask", "Area of the masks"
IMAGES_AXIS, IMAGE_COUNTS = "images, %", "Number of images."
OUTCOMES_CAPTION = "Outcome of segmentation by class"
DICE_CAPTION = "Masks compared with ground truth"
DICE_HEADERS = ("Masks", "Class", "Images", "Dice", "IoU", "HD95, px", "Dice < 0.1, %")
PROMPT_CAPTION = "Every prompt strategy on a sample of images"
PROMPT_HEADERS = ("Strategy", "Uses the ground truth", "Images", "Dice", "IoU", "HD95, px")
PROMPT_NOTE = (
    "Strategies that use the ground truth are references for judging SAM2; no classified mask was "
    "made with them."
)
WORST_MASKS = "Masks with the smallest Dice"
EFFECT = "Does a better mask help the classifier?"
EFFECT_HEADERS = ("Dice", "Images", "Change of the true class's probability")
BIN_MEAN = "mean of a quarter"


def gallery_title(data: Dataset, name: str, fraction: float) -> str:
    return f"Test images, “{name}” with {labels(fraction)} ({block(data, data.headline)})"


def gallery_summary(data: Dataset) -> str:
    bad = sum(status != "ok" for status in data.mask_status.values())
    total = len(data.mask_status)
    return f"{bad:,} of {total:,} masks unusable" if total else "no masks yet"


def case(r: Any) -> str:
    said = r.y_true if r.y_true == r.y_pred else f"{r.y_true}, called {r.y_pred}"
    return f"{said}; p(true) {number(r.p_true)}"


def flip(r: Any) -> str:
    right = [round(r[f"right_{s}"] * r[f"seeds_{s}"]) for s in ("before", "after")]
    said = f"{r.y_true_before}: {r.y_pred_before} → {r.y_pred_after}"
    return f"{said}; right in {right[0]} → {right[1]} of {int(r.seeds_after)}"


def flips_title(sign: int, run: str, baseline: str, n: int, total: int) -> str:
    which = "more" if sign > 0 else "less"
    return f"“{run}” is right {which} often than “{baseline}”: {n:,} of {plural(total, 'image')}"


def outcome_title(status: str, n: int, total: int) -> str:
    return f"Mask {OUTCOMES.get(status, status)}: {n:,} of {plural(total, 'image')}"


def stored(strategy_name: str) -> str:
    return f"stored masks ({strategy_name})"


def strategy(name: str, *, used: bool) -> str:
    text = f"{name}: {STRATEGIES[name]}" if name in STRATEGIES else name
    return f"{text} (stored masks)" if used else text


def dice_note(quality: Any) -> str:
    """Say what HD95 is over, and which images have no figure and why."""
    text = "HD95: 95th percentile of the distance between the outlines, over non-empty masks. "
    reasons = quality.loc[quality["dice"].isna(), "note"].str.split(":").str[0].value_counts()
    if len(reasons):
        listed = join(f"{name} {n:,}" for name, n in sorted(reasons.items()))
        text += f"Images without a figure, left out of every mean: {listed}."
    return text


def missed(n: int, total: int) -> str:
    return f"{n:,} of {plural(total, 'mask')} miss the region (Dice below 0.1)."


def quality_summary(data: Dataset) -> str:
    judged = data.mask_quality is not None and len(data.mask_quality)
    return "Dice, IoU and HD95 by class and prompt strategy" if judged else "outcomes and areas"


def trained_on(data: Dataset) -> str:
    """Say how many images SAM2's weights were trained on; "" where none is known."""
    found = data.seen
    if found is None:
        return ""
    parts = join(f"{n:,} of {part or 'no part'}" for part, n in found.parts.items())
    text = (
        f"{found.model} was trained on the ground-truth masks, not the labels, of "
        f"{plural(found.images, 'image')} of this data set ({parts}): its masks here are not a "
        "result on unseen images."
    )
    if found.patients:
        text += (
            f" {found.patients:,} of {found.test:,} test images are of a patient that it has seen."
        )
    return text


def effect_axis(run: str) -> str:
    return f"change of p(true), {run.lower()}"


def effect(found: Any) -> str:
    """Answer from the rank correlation and its interval."""
    answer = {
        "too few": "Too few images to tell.",
        "more": "Images with a better mask gain more or lose less.",
        "less": "Images with a better mask gain less or lose more.",
    }.get(found.verdict, "Not measurably: the interval includes zero.")
    rho = interval_text(found.rho, found.lo, found.hi, digits=2)
    images = plural(found.n_images, "image")
    return f"{answer} Spearman's rank correlation within classes: {rho}, {images}."


# Heat maps -----------------------------------------------------------------------------------
HEAT, HEAT_SUMMARY = "Where CLIP sees the class text", "patch–text similarity"
HEAT_TEXT = (
    "Cosine similarity of each place to the text of the image's true class, from dark blue "
    "(least) to yellow (most), each image on its own scale. CLIP's patches were not trained to be "
    "compared with text: read tendencies, not borders."
)


def no_heat(error: Exception) -> str:
    return f"No heat maps: {error}"


def other_model(differ: Sequence[tuple[str, Any, Any]]) -> str:
    listed = "; ".join(f"{key}: {then} in the store, {now} in params.yaml" for key, then, now in differ)
    return f"the features were made by another model than the one that params.yaml names ({listed})"


def similarity(label: str, lo: float, hi: float) -> str:
    return f"similarity to “{label}”: {number(lo)} to {number(hi)}"


def heat_alt(image_id: str, label: str) -> str:
    return f"heat map of {image_id} for {label}"


# Errors and calibration ----------------------------------------------------------------------
ERRORS, CALIBRATION = "Errors by class", "Calibration"
CLASS_CAPTION = "Precision, recall and F1 of each class"
CALIBRATION_SUMMARY = "how far confidence can be trusted"
CONFIDENCE_AXIS, RIGHT_AXIS = "mean confidence, %", "right, %"
BIN_HEADERS = ("Run", "Mean confidence, %", "Right, %", "Predictions")
ECE_CAPTION = "Expected calibration error"
ECE_NOTE = "0 is perfect. Hollow points in the plots are bins of fewer than 10 predictions."


def shown_on(data: Dataset, key: Block, fraction: float | None) -> str:
    """Name the split of a section, and the copies in it where it is the published one."""
    text = block(data, key) + (f", {labels(fraction)}" if fraction else "")
    if key[0] == "official" and data.copies is not None and not data.drawn_split:
        test = data.copies[data.copies["split"] == "test"]
        n = int(test["copy_in_train_any"].sum())
        text += f". {n:,} of {plural(len(test), 'test image')} have a copy in training"
    return f"{text}."


def errors_summary(data: Dataset, key: Block, fraction: float) -> str:
    return f"confusion matrices with the images behind them, {labels(fraction)}"


def confusion_caption(name: str) -> str:
    return f"{name}: mean count over the seeds. Choose a cell to see its images."


def confusion_label(n: int, actual: str, predicted: str) -> str:
    return f"{actual} called {predicted}: {plural(n, 'image')}"


def called(name: str) -> str:
    return f"called {name}"


def seeds_and_p(n: int, seeds: int, p: float) -> str:
    return f"{n} of {plural(seeds, 'seed')}; p(true) {number(p)}"


def reliability_title(fraction: float) -> str:
    return f"Reliability with {labels(fraction)}"


# The paper -----------------------------------------------------------------------------------
QUOTED_SECTION, QUOTED_SUMMARY = "The paper's figures", "quoted next to ours"
ARCHITECTURE, OUR_RUN = "Architecture in the paper", "Our run"
QUOTED_CAPTION = "Accuracy in percent: quoted from the paper, and ours on the published split"
COPIES_INSIDE = ("brain", "covid")
"""Sets of which the paper used the published split, which holds copies of training images."""


def quoted_text(data: Dataset, table: str) -> str:
    text = (
        f"Columns marked “quoted” are copied from the paper's table {table}: single runs without "
        "intervals, with larger models"
    )
    if data.name in COPIES_INSIDE:
        text += ", on the published split, which holds copies of training images"
    elif data.name not in OTHER_SET:
        text += ", on a split that is not published"
    return f"{text}."


def quoted_name(architecture: str) -> str:
    return f"{architecture} (quoted)"


def quoted_header(fraction: float) -> str:
    return f"quoted, {share(fraction)}"


def ours_header(fraction: float) -> str:
    return f"ours, {share(fraction)}"


# Copies --------------------------------------------------------------------------------------
COPIES = "Copies across the split"
COPY_HEADERS = ("Published split", "Images", "% of test")
COPY_ROWS = ("test images", "with a copy in training", "the same, mirrored or rotated copies too")
COPY_CAPTION = "Test images with a copy in training"
KIND_HEADERS = ("Kind of copy", "Pairs", "Across the split", "With different labels")
KIND_CAPTION = "Pairs of copies"
CONFLICTS = "Copies with different labels"
WITHIN = "Copies within one part"
NO_PAIRS = "The audit found no copies."
AUDIT_COUNTS = "All counts and parameters of the audit"


def copies(data: Dataset, found: Any) -> str:
    if found is None:
        return "no published test part" if data.drawn_split else "pairs of copies"
    return f"{found.all:,} of {plural(found.test, 'test image')} have a copy in training"


def class_mix(without: float, explained: float, full: float) -> str:
    """Say what the classes of the test images without a copy explain of the difference."""
    return (
        f"Baseline with all labels: {percent(full)} % on the whole test part, {percent(without)} % "
        f"without copies. Weighted to the classes of the latter, the whole part reaches "
        f"{percent(explained)} %; only the rest of the difference can be due to copies."
    )


def across(kind: str) -> str:
    return f"Across the split: {KINDS.get(kind, kind)}"


def pairs_title(title: str, n: int) -> str:
    return f"{title} ({plural(n, 'pair')})"


def pair(n: int, part: str, label: str) -> str:
    return f"pair {n}: {part or 'no part'}, {label}"


# Records -------------------------------------------------------------------------------------
RECORDS, MADE = "Data, runs and failures", "How this page was made"
VALUE_HEADERS = ("Name", "Value")
FAILURE_HEADERS = ("Stage", "Image", "Reason")
LOST_HEADERS = ("Image", "Reason")
LOST_MASKS = "Masks that the store lists but cannot give"
TIMES = "Last run of each stage"
TIMES_NOTE = "Counts and times are of the last run that computed anything; the status is of the last run."
TIME_HEADERS = (
    "Stage", "Status", "Started (UTC)", "Done", "Skipped", "Failed", "Total, s", "Loading, s",
    "Model, s", "Writing, s",
)  # fmt: skip
MASK_STORE, FEATURE_STORE = "Identity of the mask store", "Identity of the feature store"
IDENTITIES = "Identities of the stores, parameters and versions of each stage"
VERSIONS, PARAMETERS = "Versions", "Parameters (params.yaml)"
DIFFERS = "Some results were made with other parameters than those listed below:"
MADE_TEXT = "These commands make the files behind this page, and the page:"
NO_GIT, NOT_INSTALLED, NO_REASON = "not in a git checkout", "not installed", "no reason recorded"


def failures(n: int) -> str:
    return f"{plural(n, 'image')} failed." if n else "No image failed in any stage."


def skipped(reasons: Mapping[str, int]) -> str:
    listed = "; ".join(f"{reason}: {n:,}" for reason, n in sorted(reasons.items()))
    return f"Files that `data add` did not take as images: {listed}."


def masks_left_out(masks: Mapping[str, str]) -> str:
    named = "; ".join(f"{name}: {why}" for name, why in list(masks.items())[:8])
    rest = f"; and {len(masks) - 8:,} more" if len(masks) > 8 else ""
    return f"Ground-truth masks left out of {plural(len(masks), 'image')}: {named}{rest}."


def manifest(data: Dataset) -> str:
    return f"data_manifests/{data.name}.csv"


def record(stage: str) -> str:
    return f"Parameters and versions of {stage}"


def records_summary(data: Dataset, failed: int) -> str:
    return f"{plural(failed, 'failure')}, hashes, times and versions"


def unfinished(stage: str, run: Mapping[str, Any], error: str, again: str) -> str:
    status = {
        "error": "stopped with an error",
        "interrupted": "was interrupted",
        "running": "was killed or is still running",
    }.get(run.get("status"), f"ended as {run.get('status')}")
    reason = f" ({error})" if error else ""
    return f"The last run of {stage} {status}{reason}; figures are of an earlier run. Run: {again}"


def lost_masks(ids: Iterable[str], again: str) -> str:
    ids = list(ids)
    named = join(ids[:3]) + (f" and {len(ids) - 3:,} more" if len(ids) > 3 else "")
    return f"{plural(len(ids), 'mask')} cannot be read from the store: {named}. Run: {again}"


def made_summary(commit: str, params: Params) -> str:
    return f"commit {commit}, profile {params.profile}"


def differs(what: str, names: Sequence[str]) -> str:
    return f"{what} in the run of {join(names)}"


def changed_commit(commit: str) -> str:
    return f"{commit}, with local changes"


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
    "seeds alone, and `note` says why an interval is missing. `<data set>_comparisons.csv.gz` holds "
    "every paired difference with its p-values. `docs/tables.md` describes the columns."
)
AGAIN_TEXT = (
    "From the images of each data set to this page; docs/benchmarks.md has the options of "
    "`data add`. The same manifest has the same hash."
)


def results_made(made: str, commit: str, params: Params) -> str:
    return (
        f"Made by `{made}` at commit `{commit}`, profile `{params.profile}` "
        f"({params.models.sam2.name}, {params.models.clip.name}), prompt `{params.segment.prompt}`. "
        "Do not edit by hand."
    )


def not_evaluated(name: str, again: str) -> str:
    return f"{name} has not been evaluated: `{again}`"


def again(names: Sequence[str], commit: str, made: str) -> list[str]:
    """Return the commands that make the results from images."""
    return [f"# commit {commit}", *(f"pipeline data add {n} --from FOLDER" for n in names), made]
