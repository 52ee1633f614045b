"""The page says what the tables say: known tables, and the numbers that must be in it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.config import NamedRun
from pipeline.errors import PipelineError
from pipeline.models.seen import DIGITS
from pipeline.report import accuracy, checks, masks, overview, words
from pipeline.report.build import build_report, study_runs
from pipeline.report.data import CLEAN_ANY, GROUPED, PUBLISHED, Difference, load_dataset
from pipeline.report.pictures import Album
from tests.report.conftest import build
from tests.report.fabricated import CLASSES, DIVERGED, EMPTY, FAILED, make_project

WHOLE, MASKED, METHOD = (
    ("linear-probe", "whole"),
    ("linear-probe", "masked"),
    ("medfocus-probe", "masked"),
)


def numbers(cell) -> list[float]:
    text = cell.text.striptags() if hasattr(cell.text, "striptags") else cell.text
    return [float(n.replace("−", "-")) for n in re.findall(r"[−+]?\d+(?:\.\d+)?", text)]


def test_accuracies_of_the_tables_are_those_of_the_predictions(data):
    runs = study_runs(data.params, [data])
    table = accuracy.accuracy_table(data, PUBLISHED, list(runs.names), runs)
    rows = data.predictions
    rows = rows[(rows["protocol"] == "official") & (abs(rows["fraction"] - 1) < 1e-4)]
    for row, run in zip(table.rows, (WHOLE, MASKED, METHOD), strict=True):
        mine = rows[(rows["learner"] == run[0]) & (rows["view"] == run[1])]
        right = (mine["y_true"] == mine["y_pred"]).groupby(mine["seed"]).mean().mean()
        value, lo, hi = numbers(row[-1])
        assert value == pytest.approx(100 * right, abs=0.05) and lo <= value <= hi
    labels = [by[1.0].n_labels for by in data.accuracy(PUBLISHED).values() if 1.0 in by]
    assert f"({labels[0]} labels)" in table.headers[-1].text


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
    cell = accuracy.difference_cell(Difference(0.03, lo, hi, 0.5, code))
    assert cell.text.striptags().endswith(shown) and "+3.0" in cell.text
    assert numbers(cell)[1:] == ([] if np.isnan(lo) else [100 * lo, 100 * hi])


def test_the_headline_is_read_on_the_strictest_split_and_turned_round_where_stored_so(data):
    assert data.headline == GROUPED
    there, back = (data.differences[GROUPED, *pair] for pair in ((MASKED, WHOLE), (WHOLE, MASKED)))
    assert there[1.0].value == -back[1.0].value and there[1.0].lo == -back[1.0].hi
    verdicts = overview.verdicts(data, study_runs(data.params, [data]))
    assert [v.name for v in verdicts] == ["Masked image", "MedFocusCLIP"]
    assert words.points(there[1.0]) in verdicts[0].figures[0]
    data.metrics = data.metrics[~data.metrics["protocol"].str.startswith("grouped")]
    for name in ("estimates", "blocks", "tested"):
        data.__dict__.pop(name, None)
    assert data.headline == CLEAN_ANY


@pytest.mark.promise(
    "The runs that params.yaml names are compared; another one adds a row and a curve."
)
def test_a_fourth_run_adds_a_row_a_curve_and_a_comparison(project, html, tmp_path):
    params, paths = project
    crop = NamedRun(name="Cropped", learner="linear-probe", view="crop")
    study = params.study.model_copy(update={"runs": (*params.study.runs, crop)})
    page = build(params.model_copy(update={"study": study}), paths, tmp_path)
    assert "Cropped" not in html
    rows = re.findall(r'<th scope="row" class="head">([^<]*)</th>', page)
    assert rows.count("Cropped − Whole image") == 5  # a comparison for each of five splits
    assert page.count('<span class="run">Cropped</span>') == 1  # the overview's verdict
    legends = re.findall(r"<text[^>]*>Cropped</text>", page)
    assert len(legends) == 5 + 2  # curves of five splits, two reliability diagrams


@pytest.mark.promise("The same inputs give the same page, byte for byte.")
def test_the_same_inputs_give_the_same_bytes(project, html, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build(*project, tmp_path) == html


@pytest.mark.promise("Synthetic data is labelled at the top, in the overview and at each dataset.")
def test_synthetic_data_is_labelled(html, real, tmp_path):
    assert html.count(f'<span class="tag">{words.SYNTHETIC}</span>') == 2
    assert words.SYNTHETIC_SETS.format("one") in html
    assert words.SYNTHETIC not in build(*real, tmp_path)


@pytest.mark.promise("The paper's figures are in labelled columns, and never next to phantoms.")
def test_quoted_figures_are_labelled_and_only_next_to_real_images(real, tmp_path):
    params, paths = real
    data = load_dataset("lung", params, paths)
    runs = study_runs(params, [data])
    section = accuracy.quoted_section(data, runs)
    table = section.blocks[-1]
    quoted = [i for i, h in enumerate(table.headers) if "quoted" in h.look]
    assert quoted == [i for i, h in enumerate(table.headers) if "quoted" in h.text]
    assert quoted == [1, 2, 3, 4, 5]
    row = next(r for r in table.rows if r[0].text == "MedFocusCLIP")
    assert [r.text for r in row[1:6]] == ["81.28", "82.12", "84.49", "85.63", "91.52"]
    ours = data.accuracy(PUBLISHED)[METHOD]
    assert [c.sort for c in row[7:]] == [ours[f].value for f in sorted(ours)]
    assert any(words.OTHER_SET["lung"] in getattr(b, "text", "") for b in section.blocks)
    assert "(quoted)" in str(accuracy.protocol(data, PUBLISHED, runs)[1].svg)
    assert "(quoted)" not in str(accuracy.protocol(data, GROUPED, runs)[1].svg)
    data.manifest["synthetic"] = "1"
    assert accuracy.quoted_section(data, runs) is None
    assert "(quoted)" not in str(accuracy.protocol(data, PUBLISHED, runs)[1].svg)


@pytest.mark.promise("Next to each accuracy stands what always answering the largest class gets.")
def test_the_largest_class_is_in_every_table_and_curve_of_accuracy(data):
    runs = study_runs(data.params, [data])
    share = data.tested[PUBLISHED].largest_share
    said = words.ALWAYS_LARGEST.format("alpha", f"{100 * share:.1f}")
    assert accuracy.accuracy_table(data, PUBLISHED, [WHOLE], runs).note.endswith(said)
    assert f"largest class {100 * share:.1f} %" in accuracy.protocol(data, PUBLISHED, runs)[1].svg
    assert accuracy.glance([data], runs).rows[0][2].sort == share


@pytest.mark.promise("A failed or diverged fit is listed with its reason.")
def test_a_diverged_fit_is_listed(data):
    text, table = accuracy.broken_runs(data, study_runs(data.params, [data]))
    assert table.rows[0][0].text == "diverged" and table.rows[0][-1].text == "loss is not finite"
    assert table.rows[0][4].sort == DIVERGED[-1] and "1 of" in text.text


def test_confusion_and_per_class_are_those_of_the_predictions(data):
    runs, album = study_runs(data.params, [data]), Album(data, 32)
    made = accuracy.confusion(data, "official", WHOLE, 1.0, album, runs)
    rows = data.predictions
    rows = rows[(rows["protocol"] == "official") & (rows["view"] == "whole")]
    rows = rows[(rows["learner"] == "linear-probe") & (abs(rows["fraction"] - 1) < 1e-4)]
    for i, actual in enumerate(CLASSES):
        for j, called in enumerate(CLASSES):
            inside = rows[(rows["y_true"] == actual) & (rows["y_pred"] == called)]
            cell = made.rows[i][j]
            assert float(cell.text) == len(inside) / rows["seed"].nunique()
            shown = {p.image_id for p in cell.gallery.pictures} if cell.gallery else set()
            assert shown == set(inside["image_id"])
    table = accuracy.class_table(data, PUBLISHED, WHOLE, 1.0)
    assert [numbers(row[3])[0] for row in table.rows] == [float(r) for r in made.recalls]


@pytest.mark.promise("Copies across the split are counted, and pairs are shown side by side.")
def test_copies_are_counted_and_shown(data):
    section = checks.copies_section(data, Album(data, 32))
    assert (data.test_copies.test, data.test_copies.plain, data.test_copies.all) == (12, 1, 2)
    assert [row[1].sort for row in section.blocks[0].rows] == [12, 1, 2]
    pairs = [block for block in section.blocks if block.kind == "gallery"]
    assert [len(g.pictures) for g in pairs] == [2, 2] and all(g.pairs for g in pairs)
    clean = data.accuracy(CLEAN_ANY)[WHOLE][1.0]
    values = data.accuracy(PUBLISHED)[WHOLE][1.0].value, clean.value, clean.reweighted
    assert section.blocks[0].note == words.CLASS_MIX.format(*(f"{100 * v:.1f}" for v in values))


@pytest.mark.promise("Without an audit no page says that copies are kept together.")
def test_without_an_audit_nothing_is_said_of_copies(fresh):
    params, paths = fresh
    paths.audit(params.datasets[0]).unlink()
    data = load_dataset("one", params, paths)
    assert not data.audited and data.test_copies is None
    assert words.about_block(data, GROUPED).startswith(words.UNAWARE_TEXT)


def test_a_dataset_without_a_test_part_is_not_called_published(tmp_path):
    params, paths = make_project(tmp_path, "one", test_part=False)
    data = load_dataset("one", params, paths)
    assert data.drawn_split and "Published" not in words.block(data, PUBLISHED)
    assert words.about_block(data, PUBLISHED).startswith(words.DRAWN_TEXT)
    assert checks.copies_section(data, Album(data, 32)).summary == words.NO_TEST_PART


@pytest.mark.promise(
    "What the plan of the splits left out, and classes without a test image, are named."
)
def test_notes_of_the_plan_and_missing_classes_are_said(data):
    runs = study_runs(data.params, [data])
    assert words.glance_note([data]).endswith("one: 5 images without a split take no part.")
    notes = [words.plan_note(data, note) for note in data.notes]
    assert notes[0] == "Published split: 5 images without a split take no part."
    table = data.test_sets
    data.test_sets = table.assign(
        missing_classes=table["protocol"].map({"grouped_truth": "beta"}).fillna("")
    )
    data.__dict__.pop("tested", None)
    choice = accuracy.truth_section(data, runs).blocks[-1]
    said = [blocks[0].text for _, blocks in choice.options if blocks[0].kind == "text"]
    assert said == [words.NO_TEST_IMAGE.format("beta")]


@pytest.mark.promise("Images that SAM2 was trained on are counted next to its masks.")
def test_images_that_sam2_was_trained_on_are_counted(data, monkeypatch):
    assert words.trained_on(data) == ""
    table = data.manifest
    train, test = (table.index[table["split"] == part] for part in ("train", "test"))
    table.loc[[*train[:2], test[0]], "patient_id"] = "p1"
    known = frozenset(table.loc[train[:2], "sha256"].str[:DIGITS])
    monkeypatch.setattr("pipeline.report.data.trained_on", lambda checkpoint: known)
    data.__dict__.pop("seen", None)
    said = words.trained_on(data)
    assert "2 images" in said and "(2 of train)" in said and "1 of 12 test images" in said


def test_outcomes_of_masks_are_counted_by_class_and_shown(data):
    table = masks.outcome_table(data.in_manifest(data.masks))
    assert [c.text.split(" ")[0] for c in table.rows[0][2:]] == ["11", "1", "0", "0"]
    assert [c.text.split(" ")[0] for c in table.rows[-1][2:]] == ["34", "1", "0", "1"]
    section = masks.gallery_section(data, Album(data, 32), study_runs(data.params, [data]))
    shown = {p.image_id for block in section.blocks[-2:] for p in block.pictures}
    assert shown == {EMPTY, FAILED}
    assert ("segment", FAILED, "truncated file") in checks.failures(data)


def test_the_dice_table_is_that_of_evaluate(data):
    quality = data.mask_quality
    mine = quality[quality["strategy"] == "salient"]["dice"].dropna()
    row = masks.dice_table(data, quality).rows[0]
    assert row[2].sort == len(mine) and numbers(row[3])[0] == pytest.approx(mine.mean(), abs=5e-4)


@pytest.mark.promise("A parameter that a run was given with another value is named.")
def test_a_parameter_of_an_earlier_run_is_named(data):
    data.records["evaluate"]["parameters"]["bins"] = 7
    said = checks.differing([data], data.params)
    assert said == ["evaluate.bins: 7 in the run of one"]


def test_a_parameter_of_train_is_compared_too(data):
    data.records["train-linear-probe"]["parameters"] |= {"train": {"seeds": [5]}}
    assert checks.differing([data], data.params) == ["train.seeds: [5] in the run of one"]


@pytest.mark.promise("The confidence of every interval is that of params.yaml.")
def test_the_confidence_is_a_parameter_everywhere(project, tmp_path):
    params, paths = project
    evaluate = params.evaluate.model_copy(update={"confidence": 0.9})
    page = build(params.model_copy(update={"evaluate": evaluate}), paths, tmp_path)
    assert "90\N{NO-BREAK SPACE}% interval" in page and "95\N{NO-BREAK SPACE}%" not in page


@pytest.mark.promise("Heat maps are made with the model of the feature store, or not at all.")
def test_heat_maps_of_another_model_are_refused_with_what_differs(data):
    identity = {"model": {"fingerprint": {"name": "ViT-B-16"}}}
    data.features = SimpleNamespace(identity=identity)
    with pytest.raises(PipelineError, match=r"ViT-B-16 in the store, clip-micro in params\.yaml"):
        masks.stored_clip(data)
    spec = data.params.models.clip
    identity["model"]["fingerprint"] = {"name": spec.name, "checkpoint_sha256": "0" * 64}
    with pytest.raises(PipelineError, match="checkpoint_sha256: 0000"):
        masks.stored_clip(data)
    section = masks.heat_section(data, Album(data, 32), study_runs(data.params, [data]))
    assert [block.kind for block in section.blocks] == ["text"]


@pytest.mark.promise("A section on one split names it, and the copies in it where it is published.")
def test_sections_on_one_split_name_it_and_its_copies(data):
    runs = study_runs(data.params, [data])
    for section in (
        accuracy.errors_section(data, Album(data, 32), runs),
        accuracy.calibration_section(data, runs),
    ):
        assert section.blocks[0].text.startswith(words.block(data, GROUPED))
    said = words.shown_on(data, PUBLISHED, 1.0, data.test_copies)
    assert said == "Published split, all labels. 2 of 12 test images have a copy in training."


@pytest.mark.promise("The size of the validation part is stated, as params.yaml has it.")
def test_the_size_of_the_validation_part_is_stated(data):
    splits = data.params.splits.model_copy(update={"val": 0.3})
    params = data.params.model_copy(update={"splits": splits})
    assert any("30\N{NO-BREAK SPACE}% of them" in text for text in words.how_to_read(params))


def test_copies_are_said_of_the_papers_splits_that_hold_them(data):
    for name, inside in (("brain", True), ("covid", True), ("lung", False), ("breast", False)):
        data.name = name
        assert ("holds copies" in words.quoted_text(data, "I")) == inside


def test_nothing_but_the_name_of_a_dataset_is_a_page_too(project, tmp_path):
    page = build(*project, tmp_path, "one", "not yet")
    assert "<code>pipeline data add not yet --from FOLDER</code>" in page
    assert words.NO_VERDICT in page


def test_names_are_only_names(tmp_path):
    params, paths = make_project(tmp_path, "a&b", classes=("<b>x</b>", "007", "NA"))
    page = build_report(params, paths).read_text("utf-8")
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    data = load_dataset("a&b", params, paths)
    assert set(data.per_class["class"]) == {"<b>x</b>", "007", "NA"}
