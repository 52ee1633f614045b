"""SAM2 loads official and embedded checkpoints and gives the results of sam2's own predictor."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest
from hydra import compose
from omegaconf import OmegaConf
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.sam2_image_predictor import SAM2ImagePredictor

from pipeline.models import ModelSpec, draw_box_prompt, load_sam2
from pipeline.models.catalogue import catalogue
from pipeline.models.sam2 import STABLE, sam2_config
from tests.models.small import save_official, small_sam2_config

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
BOX = np.array([20.0, 10.0, 90.0, 70.0])


@pytest.mark.promise("SAM2 gives the results of sam2's own predictor, in batches and one by one.")
@pytest.mark.promise("SAM2 runs at the size its weights were trained for, MedSAM2 at 512 pixels.")
@pytest.mark.parametrize("size", [None, 512])
def test_an_official_checkpoint_gives_the_results_of_sam2s_own_predictor(tmp_path, size):
    path, config = tmp_path / "model.pt", small_sam2_config()
    save_official(config, path)
    spec = ModelSpec(name="sam2.1_hiera_tiny", checkpoint=str(path), image_size=size)
    ours = load_sam2(spec, config=config)
    assert json.loads(json.dumps(ours.fingerprint))["sam2"] == version("sam2")
    config["model"]["image_size"] = size = size or 1024
    theirs = SAM2ImagePredictor(save_official(config, path))
    theirs._bb_feat_sizes = [(size // stride,) * 2 for stride in (4, 8, 16)]
    answers = []
    for predictor in (ours, theirs):
        predictor.set_image(IMAGE)
        answers.append(predictor.predict(box=BOX, multimask_output=True, return_logits=True))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert (ours.image_size, ours.mask_prompt_size) == (size, size // 4)
    assert ours._transforms.max_hole_area == ours._transforms.max_sprinkle_area == 0


@pytest.mark.promise("All sizes of SAM 2.0 and 2.1 are built as sam2 builds them for images.")
def test_every_official_model_has_the_configuration_and_the_repository_of_sam2():
    extra = [f"++model.sam_mask_decoder_extra_args.{key}={value}" for key, value in STABLE.items()]
    for hub, (config, file) in HF_MODEL_ID_TO_FILENAMES.items():
        theirs = compose(config_name=config, overrides=extra)
        OmegaConf.resolve(theirs)
        name = file.removesuffix(".pt")
        assert sam2_config(name)["model"] == OmegaConf.to_container(theirs.model)
        (published,) = catalogue()[name].files
        assert (published.hub, published.name) == (hub, file)
    assert len(HF_MODEL_ID_TO_FILENAMES) == 8


def test_a_drawn_box_has_the_area_of_the_box():
    drawn = draw_box_prompt([32, 0, 96, 64], 128, 128, 64)
    assert drawn.shape == (1, 64, 64) and drawn.dtype == np.float32
    share = (drawn / 8 + 1) / 2
    assert float(share.sum()) * 4 == pytest.approx(64 * 64)
    assert draw_box_prompt([33, 0, 96, 64], 128, 128, 64)[0, 0, 16] == pytest.approx(0.0)
