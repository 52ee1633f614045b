"""The batched predictor gives what SAM2ImagePredictor gives, whatever the batch."""

import numpy as np
import pytest

from pipeline.models import draw_box_prompt
from pipeline.segment import predictor
from pipeline.segment.predictor import BatchPredictor, Prompt

CLICKS = (np.array([[20.0, 30.0], [5.0, 5.0]], np.float32), np.array([1, 0], np.int32))
BOX = np.array([10.0, 8.0, 40.0, 30.0], np.float32)


@pytest.fixture
def sam(sam2):
    return BatchPredictor(sam2)


@pytest.mark.promise("SAM2 gives the results of sam2's own predictor, in batches and one by one.")
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["none", "points", "box", "box+mask", "mixed"])
def test_batch_equals_the_predictor_image_by_image(sam, sam2, scenes, kind, multimask):
    images = [image for image, _ in scenes]
    sizes = [image.shape[:2] for image in images]
    masks = [draw_box_prompt(BOX, h, w, sam2.mask_prompt_size) for h, w in sizes]
    kinds = [
        {
            "none": (Prompt(), {}),
            "points": (Prompt(*CLICKS), {"point_coords": CLICKS[0], "point_labels": CLICKS[1]}),
            "box": (Prompt.box(BOX), {"box": BOX}),
            "box+mask": (Prompt.box(BOX, mask), {"box": BOX, "mask_input": mask}),
        }
        for mask in masks
    ]
    if kind == "mixed":  # prompts of different kinds share a batch
        chosen = [list(one.values())[i % 4] for i, one in enumerate(kinds)]
    else:
        chosen = [one[kind] for one in kinds]
    prompts, asked = zip(*chosen, strict=True)
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


@pytest.mark.promise("The memory of the decoder is bounded, whatever the number of prompts.")
def test_prompts_are_decoded_in_passes_of_bounded_size(sam, sam2, scenes, monkeypatch):
    images = [image for image, _ in scenes[:3]]
    maps = sam.embed([sam.preprocess(image) for image in images])
    clicks = [Prompt(np.array([[x, x + 3.0]], np.float32), np.ones(1, np.int32)) for x in range(20)]
    prompts = [*clicks, Prompt(), Prompt.box(BOX), Prompt()]
    frames = [i % 3 for i in range(len(prompts))]
    sizes = [images[i].shape[:2] for i in frames]
    whole = sam.decode(maps, prompts, sizes, index=frames, multimask=True)
    passes = []
    decoder = sam2.model.sam_mask_decoder
    counted = decoder.register_forward_pre_hook(
        lambda module, args, given: passes.append(len(given["sparse_prompt_embeddings"])),
        with_kwargs=True,
    )
    monkeypatch.setattr(predictor, "PASS_PIXELS", 6 * sam2.image_size**2)
    parts = sam.decode(maps, prompts, sizes, index=frames, multimask=True)
    counted.remove()
    assert sorted(passes) == [1, 2, 2, 6, 6, 6]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
