"""Each strategy on real SAM2 code: what is asked, what comes back, what is refused."""

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError, PipelineError
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.segment import SegmentMapper, segment_images
from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.strategies import STRATEGIES, Models, strategy_class
from pipeline.segment.strategies.auto import choose, prior

ASKING = ["salient", "salient-refine", "auto", "center-box", "box", "points"]


def manifest_rows(scenes):
    """Rows with a box around and a click into each true region."""
    rows = []
    for _, region in scenes:
        y, x = np.nonzero(region)
        rows.append(
            {
                "box": f"{x.min()},{y.min()},{x.max() + 1},{y.max() + 1}",
                "points": f"{x.mean():.0f},{y.mean():.0f},1",
                "mask_path": "",
                "frame": "0",
            }
        )
    return rows


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("prompt", ["salient", "auto"])
def test_bright_region_is_found_without_being_told(sam2, scenes, params, prompt):
    rows = segment_images([image for image, _ in scenes], params(prompt=prompt), sam2)
    for row, (_, region) in zip(rows, scenes, strict=True):
        assert row.status == "ok"
        assert row.mask.shape == region.shape
        assert iou(row.mask, region) > 0.7


@pytest.mark.parametrize("prompt", ASKING)
def test_masks_do_not_depend_on_batch_or_order(sam2, scenes, params, prompt):
    images, rows = [image for image, _ in scenes], manifest_rows(scenes)
    together = segment_images(images, params(prompt=prompt), sam2, rows)
    backwards = segment_images(images[::-1], params(prompt=prompt), sam2, rows[::-1])[::-1]
    for i, image in enumerate(images):
        alone = segment_images([image], params(prompt=prompt), sam2, rows[i : i + 1])[0]
        for other in (together[i], backwards[i]):
            assert alone.prompt == other.prompt
            assert alone.mask.sum() == other.mask.sum() == 0 or iou(alone.mask, other.mask) > 0.999
            assert abs(alone.predicted_iou - other.predicted_iou) < 1e-4


def test_salient_mask_is_the_predictors_own_pixel_for_pixel(sam2, scenes, params):
    for image, _ in scenes:
        row = segment_images([image], params(prompt="salient"), sam2)[0]
        sam2.set_image(image)
        theirs, score, _ = sam2.predict(multimask_output=False)
        assert np.array_equal(row.mask, theirs[0].astype(bool))
        assert row.predicted_iou == pytest.approx(float(score[0]), abs=1e-6)


def test_box_with_zoom_is_segmented_on_the_crop_and_put_back_in_its_place(sam2, scenes, params):
    image, _ = scenes[5]
    chosen = params(prompt="box", zoom=2.0, box_as_mask=False)
    row = segment_images([image], chosen, sam2, [{"box": "10,20,30,44"}])[0]
    sam2.set_image(np.ascontiguousarray(image[8:56, 0:40]))
    theirs, *_ = sam2.predict(box=np.array([10, 12, 30, 36.0]), multimask_output=False)
    expected = np.zeros(image.shape[:2], bool)
    expected[8:56, 0:40] = theirs[0]
    assert np.array_equal(row.mask, expected)
    assert row.prompt == "box 10,20,30,44 on 0,8,40,56"


def make_strategy(chosen, predictor):
    return strategy_class(chosen)(chosen, Models(BatchPredictor(predictor)))


def test_box_as_mask_and_zoom_change_what_is_asked(sam2, params):
    ask = {
        (mask, zoom): make_strategy(params(prompt="box", box_as_mask=mask, zoom=zoom), sam2).ask(
            {"box": "10,20,30,44"}, 75, 55
        )
        for mask in (True, False)
        for zoom in (0.0, 2.0)
    }
    assert ask[True, 2.0][1].mask.shape == (1, 16, 16)
    assert ask[False, 2.0][1].mask is None
    assert ask[True, 0.0][0] == (0, 0, 55, 75)
    assert ask[True, 2.0][0] == (0, 8, 40, 56)


def test_center_box_is_the_middle_of_every_image(sam2, params):
    chosen = params(prompt="center-box", center_box=0.5, zoom=0)
    region, prompt, words = make_strategy(chosen, sam2).ask({}, 40, 80)
    assert prompt.points.tolist() == [[20, 10], [60, 30]]
    assert region == (0, 0, 80, 40)
    assert words == "box 20,10,60,30"


def test_refine_looks_again_at_the_box_of_the_first_mask(sam2, scenes, params):
    image, _ = scenes[3]
    first = segment_images([image], params(prompt="salient"), sam2)[0]
    rows, columns = np.nonzero(first.mask)
    box = f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"
    second = segment_images([image], params(prompt="box"), sam2, [{"box": box}])[0]
    refined = segment_images([image], params(prompt="salient-refine"), sam2)[0]
    assert np.array_equal(refined.mask, second.mask)
    assert refined.prompt == f"salient, then {second.prompt}"


@pytest.mark.parametrize("prompt", ["salient", "salient-refine"])
def test_blank_image_has_an_empty_mask_that_is_said_so(sam2, params, prompt):
    row = segment_images([np.zeros((50, 60, 3), np.uint8)], params(prompt=prompt), sam2)[0]
    assert row.status == "empty"
    assert row.mask.shape == (50, 60)
    assert "empty" in row.reason


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_missing_prompt_in_the_manifest_fails_with_the_remedy(sam2, scenes, params, prompt):
    with pytest.raises(PipelineError, match="manifest's"):
        segment_images([scenes[0][0]], params(prompt=prompt), sam2, [{"box": "", "points": ""}])


def test_full_is_all_ones_and_needs_no_model(scenes, params):
    row = segment_images([scenes[0][0]], params(prompt="full"))[0]
    assert row.mask.all()
    assert row.status == "full"
    assert np.isnan(row.predicted_iou)


def test_manifest_masks_are_the_files(tmp_path, scenes, params):
    image, region = scenes[2]
    Image.fromarray((region * 255).astype(np.uint8)).save(tmp_path / "m.png")
    row = {"truth_file": tmp_path / "m.png", "frame": "0"}
    found = segment_images([image], params(prompt="manifest"), rows=[row])[0]
    assert np.array_equal(found.mask, region)


def test_manifest_mask_that_is_not_named_missing_or_of_another_size_fails(tmp_path, scenes, params):
    image, region = scenes[2]
    Image.fromarray((region[:-1] * 255).astype(np.uint8)).save(tmp_path / "small.png")
    cases = {"": "mask_path", "gone.png": "gone.png", "small.png": "small.png"}
    for name, said in cases.items():
        row = {"truth_file": name and tmp_path / name, "frame": "0"}
        with pytest.raises(PipelineError, match=said):
            segment_images([image], params(prompt="manifest"), rows=[row])


def test_black_ground_truth_is_an_empty_mask(tmp_path, scenes, params):
    image, region = scenes[2]
    Image.fromarray(np.zeros(region.shape, np.uint8)).save(tmp_path / "m.png")
    row = {"truth_file": tmp_path / "m.png", "frame": "0"}
    assert segment_images([image], params(prompt="manifest"), rows=[row])[0].status == "empty"


def test_quality_columns_are_filled(sam2, scenes, params):
    row = segment_images([scenes[0][0]], params(prompt="salient"), sam2)[0]
    assert 0 < row.predicted_iou < 1
    assert 0 < row.stability <= 1
    assert row.components >= 1
    assert row.prompt == "salient"


def test_prior_drops_specks_full_frames_and_background():
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 5:12, 5:12] = True
    masks[1] = True
    masks[2, 3, 3] = True
    masks[3] = ~masks[0]
    scores = prior(masks, 0.01, 0.9)
    assert scores[0] == 1
    assert scores[1:].tolist() == [0, 0, 0]


def test_choice_merges_equals_but_not_doubles_nor_the_second_best():
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 2:8, 2:8] = True
    masks[1, 2:8, 2:9] = True
    masks[2, 12:18, 12:18] = True
    masks[3, 2:6, 14:18] = True
    assert choose(masks, np.array([0.9, 0.95, 0.9, 0.5])) == [1, 2]
    assert choose(masks, np.zeros(4)) == []


def test_auto_asks_in_the_middle_of_each_cell(sam2, params):
    strategy = make_strategy(params(prompt="auto", grid=2), sam2)
    prepared = strategy.prepare(np.zeros((40, 80, 3), np.uint8), {})
    clicks = [p.points[0].tolist() for p in strategy.clicks(prepared)]
    assert clicks == [[20, 10], [60, 10], [20, 30], [60, 30]]
    assert all(isinstance(p, Prompt) for p in strategy.clicks(prepared))


def test_unknown_strategy_is_refused_with_the_choices(params):
    with pytest.raises(ConfigError, match=r"magic.*salient"):
        strategy_class(params(prompt="magic"))


def test_every_parameter_that_changes_a_strategys_masks_changes_the_identity(sam2, params):
    def identity(**values):
        return SegmentMapper(params(**values), sam2).identity

    base = identity(prompt="box")
    assert identity(prompt="box") == base
    assert identity(prompt="box", zoom=0) != base
    assert identity(prompt="box", box_as_mask=False) != base
    assert identity(prompt="box", grid=5) == base
    assert identity(prompt="auto", grid=5) != identity(prompt="auto", grid=3)
    assert identity(prompt="center-box", center_box=0.5) != identity(prompt="center-box")
    assert identity(prompt="salient", min_area=0.01) != identity(prompt="salient")
    rough = Sam2ImagePredictor(sam2.model, [0.5] * 3, [0.25] * 3, "bf16", sam2.fingerprint)
    assert SegmentMapper(params(prompt="salient"), rough).identity != identity(prompt="salient")
    other = Sam2ImagePredictor(sam2.model, [0.5] * 3, [0.25] * 3, "fp32", {"sha256": "other"})
    assert SegmentMapper(params(prompt="salient"), other).identity != identity(prompt="salient")
    assert len({str(identity(prompt=name)) for name in STRATEGIES}) == len(STRATEGIES)
