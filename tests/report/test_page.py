"""The page says what the tables say: known tables, and the numbers that must be in it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import NamedRun
from pipeline.images.overlay import PREDICTED, draw_outlines
from pipeline.models import DIGITS
from pipeline.report import build, pictures, plots, tables, words
from pipeline.report.build import build_report
from pipeline.report.data import CLEAN_ANY, GROUPED, OTHER_SET, PUBLISHED, TRUTH, load_dataset
from pipeline.report.pictures import Album
from tests.report.fabricated import CLASSES, DIVERGED, EMPTY, FAILED, make_project

WHOLE, MASKED = ("linear-probe", "whole"), ("linear-probe", "masked")
METHOD = ("medfocus-probe", "masked")


def numbers(text: str) -> list[float]:
    return [float(n.replace("−", "-")) for n in re.findall(r"[−+]?\d+(?:\.\d+)?", text)]


def test_accuracies_of_the_tables_are_those_of_the_predictions(data):
    views = data.shown(TRUTH[0])  # on images with a ground-truth mask: every pair of views
    assert views[0] == WHOLE and len(views) == 4
    assert len(tables.differences(data, TRUTH[0]).rows) == 6
    table = tables.accuracy(data, PUBLISHED, data.shown(PUBLISHED), "")
    rows = tables.select(data.predictions, protocol="official", fraction=1)
    for row, run in zip(table.rows, (WHOLE, MASKED, METHOD), strict=True):
        mine = tables.select(rows, learner=run[0], view=run[1])
        right = (mine["y_true"] == mine["y_pred"]).groupby(mine["seed"]).mean().mean()
        value, lo, hi = numbers(row[-1])
        assert value == pytest.approx(100 * right, abs=0.05) and lo <= value <= hi
    labels = [by[1.0].n_labels for by in data.accuracy(PUBLISHED).values() if 1.0 in by]
    assert f"({labels[0]} labels)" in table.headers[-1]


@pytest.mark.promise("A difference has its interval and its verdict after Holm's correction.")
@pytest.mark.parametrize(
    ("lo", "hi", "code", "shown"),
    [
        (0.01, 0.05, "better", "better"),
        (-0.05, -0.01, "worse", "worse"),
        (0.01, 0.05, "no difference", "no difference†"),
        (-0.01, 0.05, "no difference", "no difference"),
        (np.nan, np.nan, "too few", "too few images"),
    ],
)
def test_a_difference_is_shown_with_its_interval_and_verdict(lo, hi, code, shown):
    row = SimpleNamespace(difference=0.03, lo=lo, hi=hi, verdict=code)
    assert words.verdict(row) == shown and tables.difference(row).startswith("+3.0")
    assert numbers(tables.difference(row))[1:] == ([] if np.isnan(lo) else [100 * lo, 100 * hi])


def test_the_verdict_is_read_on_the_strictest_split(data):
    assert data.headline == GROUPED
    found = build.verdicts(data)
    assert [v["run"] for v in found] == ["Masked image", "MedFocusCLIP"]
    d = data.differences[GROUPED, MASKED, WHOLE]
    assert found[0]["verdict"] == words.verdict(d[1.0])
    assert numbers(found[0]["figures"][0])[0] == round(100 * d[1.0].difference, 1)
    data.metrics = data.metrics[~data.metrics["protocol"].str.startswith("grouped")]
    for name in ("estimates", "blocks"):
        data.__dict__.pop(name)
    assert data.headline == CLEAN_ANY


@pytest.mark.promise(
    "The runs that params.yaml names are compared; another one adds a row and a curve."
)
@pytest.mark.promise("Confidence and size of the validation part are those of params.yaml.")
def test_a_fourth_run_and_other_parameters_are_on_the_page(fresh, html):
    params, paths = fresh
    crop = NamedRun(name="Cropped", learner="linear-probe", view="crop")
    study = params.study.model_copy(update={"runs": (*params.study.runs, crop)})
    changed = {"study": study, "splits": params.splits.model_copy(update={"val": 0.3})}
    changed["evaluate"] = params.evaluate.model_copy(update={"confidence": 0.9})
    page = build_report(params.model_copy(update=changed), paths).read_text("utf-8")
    assert "90\N{NO-BREAK SPACE}% interval" in page and "95\N{NO-BREAK SPACE}%" not in page
    assert "30\N{NO-BREAK SPACE}% of them" in page
    assert "Cropped" not in html
    rows = re.findall(r'<th scope="row">([^<]*)</th>', page)
    assert rows.count("Cropped − Whole image") == 5  # a comparison for each of five splits
    assert page.count('<span class="run">Cropped</span>') == 1  # the overview's verdict
    assert len(re.findall(r"<text[^>]*>Cropped</text>", page)) == 5  # the curves' legends


@pytest.mark.promise("The same inputs give the same page, byte for byte.")
@pytest.mark.promise("Plots are the same bytes every time, and their text stays text.")
def test_the_same_inputs_give_the_same_bytes_and_the_text_of_plots_is_text(fresh, html, data):
    assert build_report(*fresh).read_text("utf-8") == html
    data.name = "one <&>"
    svg = str(plots.curve("x", data, GROUPED, data.shown(GROUPED)))
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert {*data.study.values(), f"({data.labels_used(GROUPED)[1.0]})"} <= texts
    assert "one &lt;&amp;&gt;" in svg and not re.search(r"\d{4}-\d\d-\d\d", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert used and used <= set(re.findall(r' id="([^"]+)"', svg))


@pytest.mark.promise("An outline lies on the border of its mask within a pixel.")
def test_an_outline_lies_on_the_border_of_the_mask():
    mask = np.zeros((211, 97), bool)
    mask[20:41, 30:51] = True
    picture = draw_outlines(np.full((211, 97, 3), 128, np.uint8), mask, size=211)
    orange = np.abs(np.asarray(picture, int) - PREDICTED).sum(axis=2) < 120
    assert picture.size == (97, 211) and not orange[24:37, 34:47].any()
    for axis, (low, high) in ((1, (20, 40)), (0, (30, 50))):
        at = np.flatnonzero(orange.any(axis=axis))
        assert abs(at.min() - low) <= 1.5 and abs(at.max() - high) <= 1.5


@pytest.mark.promise("Synthetic data is labelled at the top, in the overview and at each dataset.")
def test_synthetic_data_is_labelled(html, wide):
    assert html.count('<span class="tag">Synthetic data</span>') == 2
    assert "Synthetic data: one." in html
    assert "Synthetic" not in wide.read_text("utf-8")


@pytest.mark.promise("The paper's figures are in labelled columns, and never next to phantoms.")
def test_quoted_figures_are_labelled_and_only_next_to_real_images(real):
    data = load_dataset("lung", *real)
    part = build.part(data)
    table = part["paper"]
    assert [i for i, h in enumerate(table.headers) if h.startswith("quoted")] == [1, 2, 3, 4, 5]
    row = next(r for r in table.rows if r[0] == "MedFocusCLIP")
    assert row[1:6] == ["81.28", "82.12", "84.49", "85.63", "91.52"]
    ours = data.accuracy(PUBLISHED)[METHOD]
    assert row[7:] == [tables.estimate(ours[f]) for f in sorted(ours)]
    assert part["other_set"] == OTHER_SET["lung"]
    curves = {p["name"]: "(quoted)" in p["curve"] for p in part["protocols"]}
    assert [name for name, has in curves.items() if has] == [words.block(data, PUBLISHED)]
    data.manifest["synthetic"] = "1"
    part = build.part(data)
    assert part["paper"] is None and not any("(quoted)" in p["curve"] for p in part["protocols"])


@pytest.mark.promise("Next to each accuracy stands what always answering the largest class gets.")
def test_the_largest_class_is_in_every_table_and_curve_of_accuracy(data):
    share = f"{100 * data.tested[PUBLISHED].largest_share:.1f}\N{NO-BREAK SPACE}%"
    note = tables.accuracy(data, PUBLISHED, [WHOLE], "").note
    assert note.endswith(f"the largest class (alpha) is right in {share}.")
    assert f"largest class {share}" in build.protocol(data, PUBLISHED)["curve"]
    assert any(text.startswith("largest class (alpha)") for text in build.facts(data))


@pytest.mark.promise("A failed or diverged fit is listed with its reason.")
def test_a_diverged_fit_is_listed(data):
    (row,) = tables.broken(data).rows
    assert row[0] == "diverged" and row[-1] == "loss is not finite" and row[4] == str(DIVERGED[-1])


def test_confusion_and_per_class_are_those_of_the_predictions(data):
    data.metrics = data.metrics[data.metrics["protocol"] == "official"]
    assert data.headline == CLEAN_ANY
    matrix, by_class = tables.errors(data, WHOLE)
    run = {"learner": WHOLE[0], "view": WHOLE[1], "fraction": 1}
    rows = tables.select(data.predictions, protocol="official", **run)
    for actual, (name, *cells), figures in zip(CLASSES, matrix.rows, by_class.rows, strict=True):
        mine = rows[rows["y_true"] == actual]
        inside = [(mine["y_pred"] == c).sum() / rows["seed"].nunique() for c in CLASSES]
        assert name == actual and [float(c) for c in cells] == inside
        recall = 100 * (mine["y_pred"] == actual).mean()
        assert numbers(figures[3])[0] == pytest.approx(recall, abs=0.05)


@pytest.mark.promise("Copies across the split are counted, and pairs are shown side by side.")
@pytest.mark.promise("Without an audit no page says that copies are kept together.")
def test_copies_are_counted_and_shown(data):
    assert data.test_copies == (12, 1, 2)
    table = tables.copies(data)
    assert [row[1] for row in table.rows] == ["12", "1", "2"]
    shown = pictures.pairs(data, Album(data, 32))
    assert [len(g.pictures) for g in shown[-2:]] == [2, 2] and all(g.pairs for g in shown)
    clean = data.accuracy(CLEAN_ANY)[WHOLE][1.0]
    values = data.accuracy(PUBLISHED)[WHOLE][1.0].value, clean.value, clean.reweighted
    assert numbers(table.note) == [round(100 * v, 1) for v in values]
    assert "2 of 12 test images have a copy" in words.about_block(data, PUBLISHED)
    assert "known copy" in words.about_block(data, GROUPED)
    data.copies = None
    said = words.about_block(data, GROUPED)
    assert "known copy" not in said and "Copies were not searched for." in said


@pytest.mark.promise(
    "What the plan of the splits left out, and classes without a test image, are named."
)
def test_notes_of_the_plan_and_missing_classes_are_said(data, html):
    note = "Published split: 5 images without a split take no part."
    assert words.note(data, data.notes[0]) == note and note in html
    missing = data.test_sets["protocol"].map({"grouped_truth": "beta"}).fillna("")
    data.test_sets = data.test_sets.assign(missing_classes=missing)
    assert "No test image of beta." in words.about_block(data, TRUTH[0])
    assert "No test image" not in words.about_block(data, GROUPED)


@pytest.mark.promise("Images that SAM2 was trained on are counted next to its masks.")
def test_images_that_sam2_was_trained_on_are_counted(data, monkeypatch):
    assert build.seen(data.masks, data.manifest) == ""
    table = data.manifest
    train, test = (table.index[table["split"] == part] for part in ("train", "test"))
    table.loc[[*train[:2], test[0]], "patient_id"] = "p1"
    known = frozenset(table.loc[train[:2], "sha256"].str[:DIGITS])
    monkeypatch.setattr("pipeline.report.build.trained_on", lambda checkpoint: known)
    said = build.seen(data.masks, data.manifest)
    assert "2 images" in said and "1 of 12 test images" in said


@pytest.mark.promise("Failed images, failed masks and what `data add` left out are named.")
def test_failed_images_and_unusable_masks_are_listed(data):
    rows = tables.outcomes(data).rows
    assert [cell.split(" ")[0] for cell in rows[0][2:]] == ["11", "1", "0", "0"]
    assert [cell.split(" ")[0] for cell in rows[-1][2:]] == ["34", "1", "0", "1"]
    first, more, *_, empty, failed = pictures.images(data, Album(data, 32))
    assert [p.image_id for g in (empty, failed) for p in g.pictures] == [EMPTY, FAILED]
    cases = data.cases(METHOD).sort_values(["p_true", "right"], kind="stable")
    assert [p.image_id for p in first.pictures[:3]] == list(cases.index[:3])  # the worst
    changes = data.cases(MASKED)["right"] - data.cases(WHOLE)["right"]
    assert all(changes[p.image_id] > 0 for p in more.pictures)
    data.records["encode"] = {"failed": {"x": "too large"}}
    failed = [("encode", "x", "too large"), ("segment", FAILED, "truncated file")]
    assert tables.failures(data).rows == failed
    masks = {f"{i}.png": "other size" for i in range(9)}
    data.records["add"] = {"parameters": {"skipped": {"text": 3}, "masks_left_out": masks}}
    said = build.left_out(data)
    assert said[0] == "3 files not taken: text" and said[-1] == "masks left out of 1 more images"


@pytest.mark.promise("A parameter that a run was given with another value is named.")
def test_a_parameter_of_an_earlier_run_is_named(data):
    data.records["evaluate"]["parameters"]["bins"] = 7
    data.records["train-linear-probe"]["parameters"] |= {"train": {"seeds": [5]}}
    said = build.differing([data], data.params)
    assert said == ["evaluate.bins: 7 in the run of one", "train.seeds: [5] in the run of one"]


@pytest.mark.promise("The report names the models of the stores, whatever params.yaml names now.")
def test_the_models_are_those_of_the_stores(fresh, data):
    params, paths = fresh
    other = params.model_copy(update={"profile": "paper"})
    page = build_report(other, paths).read_text("utf-8")
    assert "Models: drawn (prompt salient) for masks." in page
    data.records["segment"]["parameters"]["profile"] = "embedded"
    assert build.differing([data], other) == ['profile of segment: "embedded" in the run of one']
    assert build.models_used([]) == "no models yet"


def test_names_are_only_names_and_a_drawn_split_is_not_called_published(tmp_path):
    classes = ("<b>x</b>", "007", "NA")
    params, paths = make_project(tmp_path, "a&b", classes=classes, test_part=False)
    page = build_report(params, paths).read_text("utf-8")
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    data = load_dataset("a&b", params, paths)
    assert set(data.per_class["class"]) == set(classes)
    assert "Published split" not in page and "no published test part" in page
    assert "was drawn" in words.about_block(data, PUBLISHED) and tables.copies(data) is None
