"""Strategies that look for words: known maps, an independent choice of regions, words, identity."""

import shutil

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import open_masks
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ModelError, StoreError
from pipeline.segment.guide import Guide, Words, read_words
from pipeline.segment.guided import Saliency, Salip, boxes_of
from pipeline.segment.predictor import BatchPredictor
from pipeline.segment.prompt_quality import measure_prompts
from pipeline.segment.quality import bounding_box
from pipeline.segment.segment import SegmentMapper, segment_dataset
from pipeline.segment.strategies import STRATEGIES, Candidates
from tests.encode.conftest import small_clip
from tests.project import DATASET

WORDS = "A strategy that looks for words uses the same for every image, and none that name a class."


def direction(guide):
    """Object minus background, by hand."""
    means = []
    for texts in (guide.words.object, guide.words.background):
        rows = [guide.clip.encode_text([text])[0].numpy() for text in texts]
        mean = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
        means.append(mean / np.linalg.norm(mean))
    return means[0] - means[1]


def shown(guide, crop):
    """A crop, uint8 (h, w, 3), as CLIP sees it."""
    pixels = torch.tensor(crop.transpose(2, 0, 1) / 255, dtype=torch.float32)[None]
    pixels = F.interpolate(pixels, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (guide.clip.mean, guide.clip.std))
    return (pixels - mean) / std


def test_the_large_parts_of_a_map_become_boxes_in_pixels():
    values = np.zeros((8, 8))
    values[1:3, 1:4] = 2.0
    values[5:8, 6:8] = 1.9
    values[7, 0] = 1.0  # above the threshold, but small
    boxes = [box.tolist() for box in boxes_of(values, 80, 160)]
    assert boxes == [[20, 10, 80, 30], [120, 50, 160, 80]]
    assert boxes_of(np.full((8, 8), 0.3), 80, 160) == []


def test_the_map_compares_the_patches_of_the_image_and_of_its_windows_with_the_words(
    params, sam2, guide, scenes
):
    image = scenes[0][0][:40, :40]
    values = Saliency(params(prompt="saliency"), BatchPredictor(sam2), guide).map(image)
    axis, tops = direction(guide), (0, 10, 20)
    similar = {}
    for key in ["whole", *((y, x) for y in tops for x in tops)]:
        part = image if key == "whole" else image[key[0] : key[0] + 20, key[1] : key[1] + 20]
        tokens = guide.clip.encode_image(shown(guide, part), tokens=True)[1][0].numpy()
        cosine = tokens @ axis / np.linalg.norm(tokens, axis=1)
        side = 64 if key == "whole" else 32
        picture = Image.fromarray(cosine.reshape(4, 4)).resize((side, side), Image.BILINEAR)
        similar[key] = np.asarray(picture)
    for y, x in ((3, 3), (20, 40), (63, 63), (31, 8)):
        over = [
            similar[top, left][y - top * 64 // 40, x - left * 64 // 40]
            for top in tops
            for left in tops
            if top * 64 // 40 <= y < top * 64 // 40 + 32 and left * 64 // 40 <= x < left * 1.6 + 32
        ]
        assert values[y, x] == pytest.approx((similar["whole"][y, x] + np.mean(over)) / 2, abs=1e-4)


def test_the_map_of_clipseg_is_the_mean_logit_of_the_object_minus_that_of_the_background(
    params, sam2, clipseg, scenes
):
    from transformers import CLIPSegForImageSegmentation

    words = Words(object=["a cyst", "a bright lesion"], background=["grey noise"])
    strategy = STRATEGIES["clipseg"](params(prompt="clipseg"), BatchPredictor(sam2), Guide(words))
    model = CLIPSegForImageSegmentation.from_pretrained(clipseg)
    picture = Image.fromarray(scenes[0][0]).resize((32, 32), Image.BILINEAR)
    pixels = torch.tensor(np.asarray(picture) / 255.0)
    pixels = (pixels - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
    pixels = pixels.permute(2, 0, 1)[None].float()
    logits = []
    for text in (*words.object, *words.background):
        ids = open_clip.tokenize([text])
        ids = ids[:, : int((ids != 0).sum())]
        logits.append(model(pixel_values=pixels, input_ids=ids).logits.detach().numpy().squeeze())
    expected = Image.fromarray((logits[0] + logits[1]) / 2 - logits[2]).resize((64, 64), 2)
    assert strategy.map(scenes[0][0]) == pytest.approx(np.asarray(expected), abs=0.015)
    assert np.ptp(expected) > 0.3


def test_a_clipseg_that_is_not_here_or_is_another_model_is_refused_in_one_line(
    params, sam2, guide, clipseg, tmp_path
):
    shutil.copytree(clipseg, tmp_path / "cut")
    file = tmp_path / "cut/model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "decoder" not in n}, file)
    (tmp_path / "empty").mkdir()
    for name, said in (("cut", "lacks"), ("empty", "no CLIPSeg"), ("gone", "no CLIPSeg")):
        asked = params(prompt="clipseg", clipseg=str(tmp_path / name))
        with pytest.raises(ModelError, match=f"{name}: .*{said}.*hf download CIDAS") as caught:
            SegmentMapper(asked, sam2, guide=guide)
        assert "\n" not in str(caught.value)


def test_clip_chooses_among_the_candidates_by_their_crops(params, sam2, guide, scenes):
    image = scenes[6][0]
    masks = np.zeros((3, 16, 16), bool)
    masks[0, 2:6, 2:6] = masks[1, 9:14, 8:15] = masks[2, 1:15, 6:9] = True
    scores = np.array([0.9, 0.8, 0.7])
    strategy = Salip(params(prompt="salip"), BatchPredictor(sam2), guide)
    height, width = image.shape[:2]
    similar = []
    for mask in masks:
        x0, y0, x1, y1 = bounding_box(mask)
        x0, x1, y0, y1 = x0 / 16 * width, x1 / 16 * width, y0 / 16 * height, y1 / 16 * height
        mx, my = 0.2 * (x1 - x0), 0.2 * (y1 - y0)
        rows = slice(max(0, int(y0 - my)), int(np.ceil(y1 + my)))
        crop = image[rows, max(0, int(x0 - mx)) : int(np.ceil(x1 + mx))]
        feature = guide.clip.encode_image(shown(guide, crop))[0].numpy()
        similar.append(feature @ direction(guide) / np.linalg.norm(feature))
    for order in ([0, 1, 2], [2, 1, 0]):
        found = Candidates(image.shape[:2], *[scores] * 3, None, image, masks[order])
        assert [order[k] for k in strategy.pick(found)] == [int(np.argmax(similar))]


@pytest.mark.promise(WORDS)
@pytest.mark.parametrize(
    "text, classes, said",
    [
        ("regions: {default: {object: [a cat], background: [x]}}", ["cat"], "name a class .cat"),
        ("regions: {d: {object: [viral FILM], background: [x]}}", ["Viral film"], "Viral"),
        ("regions: {d: {object: [], background: [x]}}", [], "cannot be read.*object"),
        ("regions: {d: {object: [x], background: [y], left: [z]}}", [], "cannot be read.*left"),
        ("regions: {e: {object: [x], background: [y]}}", [], "no words to look for in d"),
        ("regions: [", [], "cannot be read"),
        (None, [], "cannot be read"),
    ],
)
def test_words_that_are_missing_malformed_or_of_a_class_are_refused(tmp_path, text, classes, said):
    path = tmp_path / "prompts.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_words(path, "d", classes)
    assert "\n" not in str(caught.value) and "prompts.yaml" in str(caught.value)


@pytest.mark.promise(WORDS)
@pytest.mark.parametrize("prompt", ["saliency", "salip"])
def test_the_identity_holds_the_words_and_the_clip(params, sam2, guide, prompt):
    def identity(**changed):
        given = {"words": guide.words, "clip": guide.clip} | changed
        return SegmentMapper(params(prompt=prompt), sam2, guide=Guide(**given)).identity

    base = identity()
    assert base["prompt"]["clip"] == guide.clip.fingerprint
    assert base["prompt"]["words"]["object"] == ["a bright ellipse"]
    assert base != identity(clip=small_clip(1))
    assert base != identity(words=Words(object=["a dark ellipse"], background=["grey noise"]))
    plain = SegmentMapper(params(prompt="auto"), sam2, guide=guide).identity
    assert plain == SegmentMapper(params(prompt="auto"), sam2).identity


def test_segment_and_prompt_quality_find_the_words_of_the_dataset(ellipses, sam2, guide):
    project = ellipses(3)
    choices = RunOptions(workers=1)

    def segment(dataset=DATASET, **changed):
        params = project.params(segment__prompt="salip", segment__grid=2, **changed)
        models = {"predictor": sam2, "clip": guide.clip}
        return segment_dataset(dataset, params, project.paths, choices, **models)

    assert segment().done == 3
    store = open_masks(project.paths.masks(DATASET))
    assert store.identity["prompt"]["words"] == guide.words.model_dump(mode="json")
    names = ["salip", "saliency"]
    given = {"prompt_quality__strategies": names, "segment__grid": 2}
    params = project.params(**given, prompt_quality__images=0)
    models = {"predictor": sam2, "clip": guide.clip}
    measure_prompts(DATASET, params, project.paths, choices, **models)
    table = pd.read_parquet(project.paths.prompt_quality(DATASET))
    assert list(table["strategy"]) == names * 3 and not table["from_truth"].any()
    areas = table[table["strategy"] == "salip"].set_index("image_id")["pred_area_fraction"]
    assert areas.to_dict() == pytest.approx({i: store[i].mean() for i in store}, abs=2e-3)
    text = project.paths.prompts.read_text()
    project.paths.prompts.write_text(text.replace("a bright ellipse", "an ellipse"))
    with pytest.raises(StoreError, match="words"):
        segment()
    with pytest.raises(ConfigError, match="timm has no texts"):
        timm = {"name": "timm:resnet18", "checkpoint": "x"}
        params = project.params(segment__prompt="saliency", profiles__embedded__clip=timm)
        segment_dataset(DATASET, params, project.paths, choices, predictor=sam2)
