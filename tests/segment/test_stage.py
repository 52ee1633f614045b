"""`segment` on a dataset: computed once, joined by id, computed again only when it must be."""

import numpy as np
import pytest
from PIL import Image

from pipeline import open_masks
from pipeline.engine.record import RunRecord
from pipeline.errors import StageFailed
from pipeline.segment.strategies import STRATEGIES
from tests.project import DATASET
from tests.segment.small_sam2 import scene

NO_LABELS = (
    "A prompt strategy sees neither label nor split nor the name of a file or folder, and permuted "
    "labels leave all masks the same."
)


@pytest.fixture
def project(ellipses):
    return ellipses(5)


def masks(project):
    return open_masks(project.paths.masks(DATASET))


@pytest.mark.promise("Masks have the size of the image and are pixel for pixel what SAM2 returned.")
def test_stored_masks_are_sam2s_pixel_for_pixel_with_their_quality(project, run, sam2):
    project.add("blank.png", np.zeros((40, 40, 3), np.uint8))
    run(batch_size=1)
    for i in range(5):
        sam2.set_image(scene(i, 40 + 5 * i, 70 - 6 * i)[0])
        expected = sam2.predict(multimask_output=False)[0][0].astype(bool)
        assert np.array_equal(masks(project)[f"{i}.png"], expected)
    table = masks(project).table()
    assert table.loc["blank.png", "status"] == "empty"
    table = table.drop(index="blank.png")
    assert (table["status"] == "ok").all() and (table["prompt"] == "salient").all()
    assert table["predicted_iou"].between(0, 1).all() and table["stability"].between(0, 1).all()
    assert (table["components"] >= 1).all()
    assert np.allclose(table["area_fraction"], table["area"] / (table["height"] * table["width"]))


def test_a_changed_box_recomputes_that_image_alone_and_a_missing_one_fails(project, run):
    for row in project.rows[1:]:
        row["box"] = "5,5,30,30"
    project.write()
    record = run("box", segment__max_failed=0.5)
    assert record.done == 4 and set(record.failed) == {"0.png"}
    assert "column box" in record.failed["0.png"]
    project.row("3.png")["box"] = "6,6,30,30"
    project.write()
    record = run("box", segment__max_failed=0.5)
    assert record.done == 1 and record.redone_rows == {"3.png": "prompt, mask or frame changed"}
    assert masks(project).table().loc["3.png", "prompt"].startswith("box 6,6,30,30")


@pytest.mark.promise(
    "`segment` says how many masks are ok, empty and full, and ends with exit 3 when all are empty."
)
def test_masks_are_counted_by_status_and_a_set_of_empty_ones_fails(project, run):
    record = run("manifest", predictor=None)
    assert record.masks == {"ok": 5} and "masks: 5 ok" in record.summary()
    for row in project.rows:
        Image.new("L", (row["width"], row["height"])).save(project.file(row["mask_path"]))
    with pytest.raises(StageFailed, match="all 5 masks are empty") as caught:
        run("manifest", predictor=None)
    assert caught.value.exit_code == 3
    kept = RunRecord.read(project.paths.record(DATASET, "segment"))
    assert (kept.status, kept.masks, kept.done) == ("failed", {"empty": 5}, 5)
    assert run("manifest", predictor=None, segment__max_failed=1.0).status == "ok"


@pytest.mark.promise("An image without a ground-truth mask is never one with an empty mask.")
def test_ground_truth_masks_follow_their_file_and_a_missing_one_fails(project, run):
    assert run("manifest", predictor=None).done == 5
    region = scene(1, 45, 64)[1]
    assert np.array_equal(masks(project)["1.png"], region)
    Image.fromarray(region[::-1].astype(np.uint8) * 255).save(project.file("masks/1.png"))
    assert run("manifest", predictor=None).done == 1
    assert np.array_equal(masks(project)["1.png"], region[::-1])
    project.add("bare.png", scene(9, 30, 30)[0])
    project.file("masks/0.png").unlink()
    record = run("manifest", predictor=None, segment__max_failed=0.5)
    assert set(record.failed) == {"bare.png", "0.png"}
    assert "mask_path" in record.failed["bare.png"]


@pytest.mark.promise(NO_LABELS)
@pytest.mark.parametrize("prompt", STRATEGIES)
def test_a_strategy_sees_neither_label_nor_split_nor_names(project, run, monkeypatch, prompt):
    for row in project.rows:
        row["box"], row["points"] = "5,5,30,30", "10,10,1"
    project.write()
    seen = {}
    prepare = STRATEGIES[prompt].prepare

    def spy(self, image, columns, truth=None):
        seen.update(columns)
        assert truth is None or truth.dtype == bool
        return prepare(self, image, columns, truth)

    monkeypatch.setattr(STRATEGIES[prompt], "prepare", spy)
    run(prompt)
    assert seen.keys() <= {"box", "points"}


@pytest.mark.promise(NO_LABELS)
@pytest.mark.promise("New labels and splits recompute nothing.")
def test_relabelling_segments_nothing_reaches_the_store_and_changes_no_mask(project, run):
    run()
    before = {image_id: masks(project)[image_id] for image_id in masks(project)}
    labels = [row["label"] for row in project.rows]
    for row, label in zip(project.rows, labels[1:] + labels[:1], strict=True):
        row["label"] = label
    project.row("1.png")["split"] = "test"
    project.write()
    assert run().done == 0
    table = masks(project).table()
    assert table.loc["0.png", "label"] == labels[1] and table.loc["1.png", "split"] == "test"
    assert run(force=True).done == 5
    assert all(np.array_equal(masks(project)[i], mask) for i, mask in before.items())


@pytest.mark.promise(
    "Other bytes under the same name recompute that image alone; bytes that changed without the "
    "manifest fail with the remedy."
)
def test_other_bytes_under_the_same_name_recompute_that_image_alone_and_say_why(project, run):
    run()
    row = project.make_row("1.png", scene(9, 45, 64)[0])
    project.row("1.png")["sha256"] = row["sha256"]
    project.write()
    assert run().redone_rows == {"1.png": "image bytes changed"}
    project.make_row("1.png", scene(8, 45, 64)[0])  # not in the manifest
    record = run(force=True, segment__max_failed=0.5)
    assert set(record.failed) == {"1.png"}
    assert "pipeline data refresh" in record.failed["1.png"]
