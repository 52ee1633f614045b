"""SAM2's encoder run by ONNX Runtime: the same masks, under an identity of their own."""

import copy
import sys

import numpy as np
import pytest
import torch

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError
from pipeline.models.onnx_encoder import onnxruntime_for_sam2
from pipeline.segment.predictor import BatchPredictor, Prompt
from pipeline.segment.segment import SegmentMapper


@pytest.mark.promise("ONNX Runtime in the place of torch gives the same masks, in another store.")
def test_masks_are_those_of_torch_for_any_batch(sam2, scenes):
    other = copy.deepcopy(sam2)
    onnxruntime_for_sam2(other)
    images, found = [image for image, _ in scenes], []
    sizes = [image.shape[:2] for image in images]
    for predictor in (BatchPredictor(sam2), BatchPredictor(other)):
        frames = [predictor.preprocess(image) for image in images]
        maps = predictor.embed(frames)
        logits, _ = predictor.decode(maps, [Prompt() for _ in images], sizes)
        masks = [predictor.upsample(k, *size) for k, size in zip(logits, sizes, strict=True)]
        found.append((maps, masks))
    for mine, theirs in zip(found[1][0], found[0][0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert all(map(np.array_equal, found[1][1], found[0][1]))
    alone = predictor.embed(frames[1:2])
    assert all(torch.equal(a, b[1:2]) for a, b in zip(alone, maps, strict=True))
    identities = [SegmentMapper(SegmentParams(), one).identity for one in (sam2, other)]
    assert identities[0] != identities[1]


@pytest.mark.parametrize("wrong", ["package", "precision"])
def test_what_it_cannot_run_is_told_in_one_line(sam2, monkeypatch, wrong):
    predictor = copy.copy(sam2)
    if wrong == "package":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        predictor.precision = "bf16"
    with pytest.raises(ConfigError, match=r"segment\.runtime: onnxruntime is") as error:
        onnxruntime_for_sam2(predictor)
    assert "segment.runtime: torch" in error.value.remedy
