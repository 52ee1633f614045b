"""SAM2 loads official and embedded checkpoints and gives the results of sam2's own predictor."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sam2.sam2_image_predictor import SAM2ImagePredictor

from pipeline.models import ModelSpec, draw_box_prompt, load_sam2
from tests.models.small import save_official, small_sam2_config

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
BOX = np.array([20.0, 10.0, 90.0, 70.0])


@pytest.fixture(scope="module")
def micro():
    return load_sam2(ModelSpec(name="sam2-micro", checkpoint="package"))


def test_importing_the_package_does_not_import_torch():
    code = "import sys, pipeline.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.promise("SAM2 gives the results of sam2's own predictor, in batches and one by one.")
def test_an_official_checkpoint_gives_the_results_of_sam2s_own_predictor(tmp_path):
    path, config = tmp_path / "model.pt", small_sam2_config()
    theirs = SAM2ImagePredictor(save_official(config, path))
    ours = load_sam2(ModelSpec(name="sam2.1_hiera_tiny", checkpoint=str(path)), config=config)
    answers = []
    for predictor in (ours, theirs):
        predictor.set_image(IMAGE)
        answers.append(predictor.predict(box=BOX, multimask_output=True, return_logits=True))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert ours.image_size == 1024
    assert ours.mask_prompt_size == 256


def test_micro_gives_masks_of_the_images_size_with_and_without_a_prompt(micro):
    micro.set_image(IMAGE)
    masks, iou, low = micro.predict(box=BOX, multimask_output=True)
    assert masks.shape == (3, 90, 140)
    assert low.shape == (3, 64, 64)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert micro.predict(multimask_output=False)[0].shape == (1, 90, 140)


@pytest.mark.promise("SAM2 gives the results of sam2's own predictor, in batches and one by one.")
def test_a_batch_gives_the_results_of_single_images(micro):
    other = IMAGE[:64, :80]
    micro.set_image_batch([IMAGE, other])
    batch, _, _ = micro.predict_batch(
        box_batch=[BOX, BOX / 2], multimask_output=False, return_logits=True
    )
    for image, box, mask in zip((IMAGE, other), (BOX, BOX / 2), batch, strict=True):
        micro.set_image(image)
        single, _, _ = micro.predict(box=box, multimask_output=False, return_logits=True)
        np.testing.assert_allclose(mask, single, atol=1e-2)


def test_micro_segments_the_object_in_its_box():
    y, x = np.mgrid[:200, :200]
    image = np.full((200, 200, 3), 90, np.uint8)
    places = [(55, 60), (140, 135)]
    for cx, cy in places:
        image[(x - cx) ** 2 + (y - cy) ** 2 < 35**2] = 200
    predictor = load_sam2(ModelSpec(name="sam2-micro"))
    predictor.set_image(image)
    for cx, cy in places:
        box = np.array([cx - 35, cy - 35, cx + 35, cy + 35])
        drawn = draw_box_prompt(box, 200, 200, predictor.mask_prompt_size)
        masks, _, _ = predictor.predict(box=box, mask_input=drawn, multimask_output=False)
        truth = (x - cx) ** 2 + (y - cy) ** 2 < 35**2
        mask = masks[0] > 0
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


def test_bf16_is_close_to_fp32(micro):
    half = load_sam2(ModelSpec(name="sam2-micro"), precision="bf16")
    for predictor in (micro, half):
        predictor.set_image(IMAGE)
    a, _, _ = micro.predict(box=BOX, multimask_output=False, return_logits=True)
    b, _, _ = half.predict(box=BOX, multimask_output=False, return_logits=True)
    assert ((a > 0) == (b > 0)).mean() > 0.95


@pytest.mark.promise("The fingerprint of a model is everything that decides its results.")
def test_the_fingerprint_is_json_and_differs_between_checkpoints(tmp_path):
    prints = []
    for seed in (0, 1):
        path, config = tmp_path / f"{seed}.pt", small_sam2_config()
        save_official(config, path, seed)
        model = load_sam2(ModelSpec(name="sam2.1_hiera_tiny", checkpoint=str(path)), config=config)
        prints.append(json.dumps(model.fingerprint, sort_keys=True))
        assert model.fingerprint["sam2"] == version("sam2")
    assert prints[0] != prints[1]


@pytest.mark.promise("SAM2 gives the results of sam2's own predictor, in batches and one by one.")
def test_the_compiled_extension_is_never_used(micro):
    assert micro._transforms.max_hole_area == 0
    assert micro._transforms.max_sprinkle_area == 0


def test_a_drawn_box_has_the_area_of_the_box():
    drawn = draw_box_prompt([32, 0, 96, 64], 128, 128, 64)
    assert drawn.shape == (1, 64, 64)
    assert drawn.dtype == np.float32
    share = (drawn / 8 + 1) / 2
    assert float(share.sum()) * 4 == pytest.approx(64 * 64)
    edge = draw_box_prompt([33, 0, 96, 64], 128, 128, 64)
    assert edge[0, 0, 16] == pytest.approx(0.0)


def test_the_weights_are_half_precision_and_small(repo):
    folder = repo / "pipeline/models/weights"
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 25e6
    with safe_open(folder / "sam2-micro.safetensors", "pt") as file:
        assert {file.get_tensor(k).dtype for k in file.keys()} == {torch.float16}  # noqa: SIM118
