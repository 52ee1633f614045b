"""`segment` over a dataset: computed once, joined by id, redone when and only when it must be."""

import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline import open_masks
from pipeline.engine import RunOptions
from pipeline.engine.status import status_rows, status_text
from pipeline.errors import ManifestError, StageFailed, StoreError
from pipeline.io import sha256_file
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment import segment_dataset
from pipeline.segment.strategies import STRATEGIES
from tests.project import DATASET
from tests.segment.small_sam2 import scene


@pytest.fixture
def project(ellipses):
    return ellipses(5)


@pytest.fixture
def run(project, sam2):
    def segment(predictor=sam2, prompt="salient", **options):
        names = ("segment__max_failed", "segment__min_area")
        changed = {name: options.pop(name) for name in names if name in options}
        return segment_dataset(
            DATASET,
            project.params(segment__prompt=prompt, **changed),
            project.paths,
            RunOptions(**{"workers": 1, **options}),
            predictor=predictor,
        )

    return segment


def masks(project):
    return open_masks(project.paths.masks(DATASET))


def test_adding_ten_images_segments_ten_and_nothing_else_costs_anything(project, run):
    assert run().done == 5
    for i in range(10):
        project.add(f"new{i}.png", scene(50 + i, 32, 40)[0])
    assert run().done == 10
    project.rows.reverse()
    del project.rows[3:6]
    project.write()
    record = run()
    assert (record.done, record.skipped) == (0, 12)


def test_status_tells_what_a_store_lacks_of_the_manifest_though_its_last_run_was_ok(project, run):
    project.add("bad.png", scene(50, 32, 40)[0])
    project.file("bad.png").write_bytes(b"no image")
    run(segment__max_failed=0.5)

    def told():
        (row, _) = status_rows(project.paths, [DATASET])
        return row["status"], row["lacking"], status_text(status_rows(project.paths, [DATASET]))

    status, lacking, text = told()  # what failed is named as that
    assert (status, lacking) == ("ok", (0, 6)) and "lacks" not in text
    project.add("new.png", scene(51, 32, 40)[0])
    project.rows[0]["sha256"] = "0" * 64  # as of other bytes
    project.write()
    with pytest.raises(StoreError):
        run(segment__max_failed=0.5, segment__min_area=0.3)  # refused: the record stays
    status, lacking, text = told()
    assert (status, lacking) == ("ok", (2, 7))
    assert "lacks 2 of the 7 images of the manifest as it is now - run: pipeline segment" in text
    shutil.rmtree(project.paths.masks(DATASET))
    assert told()[1] == (7, 7)


def test_stored_masks_are_sam2s_pixel_for_pixel_at_the_images_own_size(project, run, sam2):
    run(batch_size=1)
    for i in range(5):
        image = scene(i, 40 + 5 * i, 70 - 6 * i)[0]
        sam2.set_image(image)
        theirs = sam2.predict(multimask_output=False)[0][0].astype(bool)
        assert np.array_equal(masks(project)[f"{i}.png"], theirs)


def test_masks_do_not_depend_on_batch_size_workers_or_order(project, run):
    run(batch_size=1, workers=0)
    first = {i: masks(project)[i] for i in masks(project)}
    project.rows.reverse()
    project.write()
    run(batch_size=4, workers=3, force=True)
    for i, mask in first.items():
        assert np.array_equal(masks(project)[i], mask)


def test_an_unreadable_image_fails_alone_and_shifts_no_other(project, run):
    run()
    good = {i: masks(project)[i] for i in masks(project)}
    path = project.file("2.png")
    path.write_bytes(path.read_bytes()[:60])
    project.row("2.png")["sha256"] = sha256_file(path)
    project.write()
    with pytest.raises(StageFailed, match=r"2\.png"):
        run(force=True)
    record = run(force=True, segment__max_failed=0.5)
    assert set(record.failed) == {"2.png"}
    for i in good:
        if i != "2.png":
            assert np.array_equal(masks(project)[i], good[i])
    with pytest.raises(StoreError, match=r"2\.png"):
        masks(project)["2.png"]


def test_blank_image_is_recorded_as_empty(project, run):
    project.add("blank.png", np.zeros((40, 40, 3), np.uint8))
    run()
    row = masks(project).table().loc["blank.png"]
    assert row["status"] == "empty"
    assert row["area"] == 0 or row["area_fraction"] < 0.002
    assert set(masks(project).table()["status"]) == {"ok", "empty"}


def test_quality_columns_lie_beside_each_mask(project, run):
    run()
    table = masks(project).table()
    assert (table["prompt"] == "salient").all()
    assert table["predicted_iou"].between(0, 1).all()
    assert table["stability"].between(0, 1).all()
    assert (table["components"] >= 1).all()
    assert np.allclose(table["area_fraction"], table["area"] / (table["height"] * table["width"]))


def test_other_weights_or_choices_are_refused_with_the_difference_or_rebuilt(project, run, sam2):
    run()
    other = Sam2ImagePredictor(sam2.model, [0.5] * 3, [0.25] * 3, "fp32", {"sha256": "other"})
    with pytest.raises(StoreError, match="fingerprint"):
        run(predictor=other)
    with pytest.raises(StoreError, match="min_area"):
        run(segment__min_area=0.01)
    assert run(predictor=other, on_mismatch="rebuild").done == 5
    assert run(predictor=other).done == 0


def test_changed_box_redoes_that_image_alone_and_only_where_boxes_are_asked(project, run):
    for row in project.rows:
        row["box"] = "5,5,30,30"
    project.write()
    assert run(prompt="box").done == 5
    project.row("3.png")["box"] = "6,6,30,30"
    project.write()
    record = run(prompt="box")
    assert record.done == 1
    assert set(record.redone_rows) == {"3.png"}
    assert masks(project).table().loc["3.png", "prompt"].startswith("box 6,6,30,30")


def test_missing_box_fails_its_row_with_the_remedy(project, run):
    for row in project.rows[1:]:
        row["box"] = "5,5,30,30"
    project.write()
    record = run(prompt="box", segment__max_failed=0.5)
    assert set(record.failed) == {"0.png"}
    assert "box column" in record.failed["0.png"]


def test_ground_truth_masks_are_redone_when_their_file_changes(project, run):
    assert run(predictor=None, prompt="manifest").done == 5
    region = scene(1, 45, 64)[1]
    assert np.array_equal(masks(project)["1.png"], region)
    Image.fromarray(region[::-1].astype(np.uint8) * 255).save(project.file("masks/1.png"))
    assert run(predictor=None, prompt="manifest").done == 1
    assert np.array_equal(masks(project)["1.png"], region[::-1])


def test_image_without_ground_truth_fails_and_is_not_taken_for_empty(project, run):
    project.add("bare.png", scene(9, 30, 30)[0])
    project.file("masks/0.png").unlink()
    record = run(predictor=None, prompt="manifest", segment__max_failed=0.5)
    assert set(record.failed) == {"bare.png", "0.png"}
    assert "mask_path" in record.failed["bare.png"]


def test_byte_copies_are_segmented_once(project, run):
    project.add("copy of 0.png", scene(0, 40, 70)[0])
    record = run()
    assert (record.done, record.copied) == (6, 1)
    assert np.array_equal(masks(project)["copy of 0.png"], masks(project)["0.png"])


def test_limit_and_only_choose_what_is_done(project, run):
    assert run(limit=2).done == 2
    assert run(only=["4.png"]).done == 1
    assert set(masks(project)) == {"0.png", "1.png", "4.png"}
    with pytest.raises(ManifestError, match=r"nowhere\.png"):
        run(only=["nowhere.png"])


@pytest.mark.parametrize("prompt", ["salient", "salient-refine", "auto", "center-box", "box"])
def test_a_strategy_sees_neither_label_nor_split_nor_names(project, run, monkeypatch, prompt):
    for row in project.rows:
        row["box"] = "5,5,30,30"
    project.write()
    seen = set()
    prepare = STRATEGIES[prompt].prepare

    def spy(self, image, columns, truth=None):
        seen.update(columns)
        return prepare(self, image, columns, truth)

    monkeypatch.setattr(STRATEGIES[prompt], "prepare", spy)
    run(prompt=prompt)
    assert seen <= {"box"}


def test_permuted_labels_give_the_same_masks(project, run):
    run()
    before = {i: masks(project)[i] for i in masks(project)}
    labels = [row["label"] for row in project.rows]
    for row, label in zip(project.rows, labels[1:] + labels[:1], strict=True):
        row["label"] = label
    project.write()
    assert run(force=True).done == 5
    assert all(np.array_equal(masks(project)[i], mask) for i, mask in before.items())


def test_relabelling_segments_nothing_and_reaches_the_store(project, run):
    run()
    project.row("0.png")["label"] = "cat"
    project.row("1.png")["split"] = "test"
    project.write()
    assert run().done == 0
    table = masks(project).table()
    assert table.loc["0.png", "label"] == "cat"
    assert table.loc["1.png", "split"] == "test"
