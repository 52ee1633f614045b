"""Each strategy with real SAM2 code: what is asked, what comes back, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images import read as reader
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.quality import mask_status, stability_score
from pipeline.segment.segment import SegmentMapper
from pipeline.segment.strategies import STRATEGIES, Candidates, prior, ranked, stretched
from pipeline.store import WorkItem

WITH_SAM2 = [name for name, strategy in STRATEGIES.items() if strategy.uses_sam2]


def segment_images(images, params, predictor=None, rows=None, guide=None):
    """The rows of images in memory, in one batch."""
    mapper = SegmentMapper(params, predictor, guide=guide)
    rows = rows or [{}] * len(images)
    items = [WorkItem(str(i), "", Path()) for i in range(len(images))]
    prepared = [mapper.prepare(image, row) for image, row in zip(images, rows, strict=True)]
    return mapper.map(items, prepared)


def manifest_rows(scenes):
    """Rows with a box around each true region and a click in it."""
    rows = []
    for _, region in scenes:
        y, x = np.nonzero(region)
        box = f"{x.min()},{y.min()},{x.max() + 1},{y.max() + 1}"
        rows.append({"box": box, "points": f"{x.mean():.0f},{y.mean():.0f},1"})
    return rows


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("prompt", ["salient", "auto"])
def test_a_bright_region_is_found_without_a_prompt(sam2, scenes, params, prompt):
    rows = segment_images([image for image, _ in scenes], params(prompt=prompt), sam2)
    for row, (_, region) in zip(rows, scenes, strict=True):
        assert row.status == "ok" and row.mask.shape == region.shape
        assert iou(row.mask, region) > 0.7


@pytest.mark.promise(
    "Masks and features do not depend on batch size, cores, workers, order or resuming."
)
@pytest.mark.parametrize("prompt", WITH_SAM2)
def test_masks_do_not_depend_on_batch_or_order(sam2, guide, scenes, params, prompt):
    images, rows = [image for image, _ in scenes], manifest_rows(scenes)
    together = segment_images(images, params(prompt=prompt), sam2, rows, guide)
    backwards = segment_images(images[::-1], params(prompt=prompt), sam2, rows[::-1], guide)[::-1]
    for i, image in enumerate(images):
        alone = segment_images([image], params(prompt=prompt), sam2, rows[i : i + 1], guide)[0]
        for other in (together[i], backwards[i]):
            assert alone.prompt == other.prompt
            assert alone.mask.sum() == other.mask.sum() == 0 or iou(alone.mask, other.mask) > 0.999
            assert abs(alone.predicted_iou - other.predicted_iou) < 1e-4


def test_averaged_masks_are_those_of_the_mean_over_copies_and_mirror_with_the_image(
    sam2, scenes, params
):
    maps = torch.arange(36.0).reshape(1, 1, 6, 6)  # linear, so that resampling it is exact inside
    torch.testing.assert_close(stretched(maps, -1, 1), maps.flip(-1))
    half = stretched(maps, 0.5, 0.5)[0, 0]  # at twice the size
    torch.testing.assert_close(half, 17.5 + (maps[0, 0] - 17.5) / 2)
    image = scenes[5][0]
    row, mirrored = segment_images([image, image[:, ::-1].copy()], params(prompt="averaged"), sam2)
    assert iou(row.mask, mirrored.mask[:, ::-1]) > 0.99 and row.mask.any()
    batch, answers = BatchPredictor(sam2), []
    frame = batch.preprocess(image)[None]
    for x, y in ((1, 1), (-1, 1), (1.25, 1.25), (-1.25, 1.25)):
        logits, ious = batch.decode(batch.embed([*stretched(frame, x, y)]), [Prompt()], [(1, 1)])
        answers.append((stretched(logits, 1 / x, 1 / y)[0], float(ious[0, 0])))
    mean = sum(logits for logits, _ in answers) / 4
    assert iou(row.mask, batch.upsample(mean, *image.shape[:2])[0]) > 0.999
    assert row.predicted_iou == pytest.approx(np.mean([of for _, of in answers]), abs=1e-5)


def test_a_box_with_zoom_is_segmented_on_the_crop_and_pasted_back(sam2, scenes, params):
    image, _ = scenes[5]
    chosen = params(prompt="box", zoom=2.0, box_as_mask=False)
    row = segment_images([image], chosen, sam2, [{"box": "10,20,30,44"}])[0]
    sam2.set_image(np.ascontiguousarray(image[8:56, 0:40]))
    theirs, *_ = sam2.predict(box=np.array([10, 12, 30, 36.0]), multimask_output=False)
    expected = np.zeros(image.shape[:2], bool)
    expected[8:56, 0:40] = theirs[0]
    assert np.array_equal(row.mask, expected)
    assert row.prompt == "box 10,20,30,44 on 0,8,40,56"


def test_manifest_masks_are_the_files_or_fail(tmp_path, scenes, params):
    image, region = scenes[2]
    saved = {"m.png": region, "black.png": region & False, "small.png": region[:-1]}
    for name, mask in saved.items():
        Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / name)

    def segment(name):
        row = {"truth_file": name and tmp_path / name, "frame": "0"}
        return segment_images([image], params(prompt="manifest"), rows=[row])[0]

    assert np.array_equal(segment("m.png").mask, region)
    assert segment("black.png").status == "empty"
    for name, said in {"": "mask_path", "gone.png": "gone.png", "small.png": "small.png"}.items():
        with pytest.raises(PipelineError, match=said):
            segment(name)


def test_auto_drops_specks_full_frames_and_background_and_merges_equals(params):
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 5:12, 5:12] = True
    masks[1] = True
    masks[2, 3, 3] = True
    masks[3] = ~masks[0]
    assert prior(masks, 0.01, 0.9).tolist() == [1, 0, 0, 0]
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 2:8, 2:8] = masks[1, 2:8, 2:9] = masks[2, 12:18, 12:18] = masks[3, 2:6, 14:18] = True
    scores = np.array([0.9, 0.95, 0.9, 0.5])
    assert ranked(masks, scores, 8) == [1, 2, 3]
    assert ranked(masks, scores, 2) == [1, 2] and ranked(masks, np.zeros(4), 8) == []
    one = Candidates((20, 20), scores[[1, 2, 3]], scores[:3], scores[:3], masks[1:].take)
    for name, picked in {"auto": [0, 1], "union": [0, 1, 2]}.items():
        assert STRATEGIES[name](params(prompt=name, union=3), None).pick(one) == picked


@pytest.mark.promise(
    "Another checkpoint (by one bit), activation, fill, geometry, precision, prompt or reader rule "
    "is refused with the difference."
)
def test_everything_that_changes_masks_changes_the_identity(sam2, guide, params, monkeypatch):
    def identity(predictor=sam2, guide=guide, **values):
        return SegmentMapper(params(**values), predictor, guide=guide).identity

    def predictor(precision, fingerprint):
        return Sam2ImagePredictor(sam2.model, [0.5] * 3, [0.25] * 3, precision, fingerprint)

    base = identity(prompt="box")
    assert identity(prompt="box") == base == identity(prompt="box", grid=5)
    others = [
        identity(prompt="box", zoom=0),
        identity(prompt="box", min_area=0.01),
        identity(predictor("bf16", sam2.fingerprint), prompt="box"),
        identity(predictor("fp32", {"sha256": "other"}), prompt="box"),
    ]
    assert all(other != base for other in others)
    assert identity(prompt="auto", grid=5) != identity(prompt="auto", grid=3)
    assert len({str(identity(prompt=name)) for name in STRATEGIES}) == len(STRATEGIES)
    monkeypatch.setattr(reader, "READER_VERSION", "another")
    assert identity(prompt="box") != base


def test_status_by_area_and_stability_by_a_stricter_and_a_looser_threshold():
    found = [mask_status(area, 0.002, 0.95) for area in (0.0019, 0.002, 0.951)]
    assert found == ["empty", "ok", "full"]
    assert (mask_status(0, 0, 1), mask_status(1, 0, 1)) == ("empty", "full")
    assert stability_score(np.array([[5.0, 0.5, -0.5, -5.0]])) == pytest.approx(1 / 3)


@pytest.mark.promise("A blank image has no mask, whatever the model says: status empty, blank.")
@pytest.mark.parametrize("prompt", ["salient", "auto", "center-box", "full"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (90, 90, 90), (255, 255, 255), (200, 20, 90)])
def test_a_blank_image_has_no_mask(sam2, scenes, params, prompt, colour):
    image, _ = scenes[0]
    noisy = np.full_like(image, 90)
    noisy[::2] += 1
    images = [np.full_like(image, colour), noisy, image]
    flat, nearly, real = segment_images(images, params(prompt=prompt), sam2)
    for row in (flat, nearly):
        assert (row.status, row.reason) == ("empty", "blank") and not row.mask.any()
    assert real.reason != "blank" and real.mask.any()
