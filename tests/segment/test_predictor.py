"""The batched predictor gives what SAM2ImagePredictor gives, whatever the batch."""

import numpy as np
import pytest

from pipeline.models import draw_box_prompt
from pipeline.segment.predictor import BatchPredictor, Prompt

CLICKS = (np.array([[20.0, 30.0], [5.0, 5.0]], np.float32), np.array([1, 0], np.int32))
BOX = np.array([10.0, 8.0, 40.0, 30.0], np.float32)


@pytest.fixture
def sam(sam2):
    return BatchPredictor(sam2)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["none", "points", "box", "box+mask"])
def test_batch_equals_the_predictor_image_by_image(sam, sam2, scenes, kind, multimask):
    images = [image for image, _ in scenes]
    sizes = [image.shape[:2] for image in images]
    masks = [draw_box_prompt(BOX, h, w, sam2.mask_prompt_size) for h, w in sizes]
    prompts = {
        "none": [Prompt() for _ in images],
        "points": [Prompt(*CLICKS) for _ in images],
        "box": [Prompt.box(BOX) for _ in images],
        "box+mask": [Prompt.box(BOX, mask) for mask in masks],
    }[kind]
    asked = [
        {
            "none": {},
            "points": {"point_coords": CLICKS[0], "point_labels": CLICKS[1]},
            "box": {"box": BOX},
            "box+mask": {"box": BOX, "mask_input": mask},
        }[kind]
        for mask in masks
    ]
    embedding = sam.embed([sam.preprocess(image) for image in images])
    logits, ious = sam.decode(embedding, prompts, sizes, multimask=multimask)
    for i, (image, question) in enumerate(zip(images, asked, strict=True)):
        sam2.set_image(image)
        theirs, iou, low_res = sam2.predict(multimask_output=multimask, **question)
        ours = sam.upsample(logits[i], *sizes[i])
        assert ours.shape == theirs.shape
        assert (ours != theirs.astype(bool)).mean() < 1e-3
        assert np.allclose(np.clip(logits[i].numpy(), -32, 32), low_res, atol=1e-4)
        assert np.allclose(ious[i], iou, atol=1e-5)


def test_prompts_of_different_kinds_share_a_batch_and_an_image_takes_several(sam, scenes):
    images = [image for image, _ in scenes[:4]]
    sizes = [image.shape[:2] for image in images]
    prompts = [Prompt.box(BOX), Prompt(), Prompt(*CLICKS), Prompt()]
    frames = [sam.preprocess(image) for image in images]
    together, _ = sam.decode(sam.embed(frames), prompts, sizes)
    for i in range(4):
        alone, _ = sam.decode(sam.embed(frames[i : i + 1]), prompts[i : i + 1], sizes[i : i + 1])
        assert np.allclose(together[i], alone[0], atol=1e-4)

    size = sizes[0]
    logits, ious = sam.decode(
        sam.embed(frames[1::-1]), [Prompt.box(BOX), Prompt.box(BOX / 2)], [size, size], index=[1, 1]
    )
    assert logits.shape[:2] == (2, 1) == ious.shape
    assert np.allclose(logits[0], together[0], atol=1e-4)
