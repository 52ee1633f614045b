"""Feature maps of the whole image pooled over regions: `trunk`, `inside`, `outside`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from pydantic import ValidationError

from pipeline.config import EncodeParams
from pipeline.encode.mapper import EncodeMapper
from pipeline.models import ClipModel
from pipeline.store import FeatureRow, FeatureStoreWriter, WorkItem, open_features, verify_store
from tests.encode.conftest import MEAN, STD
from tests.learners.test_learners import make, samples

POOLED = ("trunk", "inside", "outside", "random-inside")
VISION = {
    "vit": {"layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "timm": {"timm_model_name": "test_efficientnet", "timm_model_pretrained": False},
}


def small(kind: str, size: int = 64) -> ClipModel:
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    vision = {"image_size": size, **VISION[kind]}
    model = (CustomTextCLIP if kind == "timm" else CLIP)(24, vision, text).eval()
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    return ClipModel(model, SimpleTokenizer(context_length=8), preprocess, "fp32", {"name": kind})


def mapper(clip: ClipModel, *views: str, **changed) -> EncodeMapper:
    return EncodeMapper(EncodeParams(views=views, geometry="pad", **changed), clip, {})


def hooked_maps(clip: ClipModel, pixels: torch.Tensor) -> list[np.ndarray]:
    """The maps (C, h, w) that modules of the tower hand on, caught while it encodes one image."""
    visual, found = clip.model.visual, []
    if hasattr(visual, "trunk"):
        names = [one["module"] for one in visual.trunk.feature_info][-3:]
        modules = [visual.trunk.get_submodule(name) for name in names]
    elif hasattr(visual, "layer4"):
        modules = [visual.layer2, visual.layer3, visual.layer4]
    else:
        modules = [visual.transformer.resblocks[k] for k in (1, 3)]
    hooks = [one.register_forward_hook(lambda m, i, out: found.append(out[0])) for one in modules]
    clip.encode_image(pixels)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        if found[0].ndim == 2:  # tokens, the first of the class
            found = [visual.ln_post(x)[1:].T.unflatten(1, (8, 8)) for x in found]
        return [x.numpy().astype(np.float64) for x in found]


@pytest.mark.promise("Pooled views are the means of the tower's maps over the cells of a region.")
@pytest.mark.parametrize("kind", VISION)
def test_pooled_views_are_weighted_means_of_the_maps_of_one_pass(kind):
    clip, rng = small(kind), np.random.default_rng(1)
    image = rng.integers(0, 256, (64, 40, 3), dtype=np.uint8)  # 12 columns of padding a side
    mask = np.zeros((64, 40), bool)
    mask[5:23, 7:20] = True
    ours = mapper(clip, "whole", "masked", *POOLED[:3])
    prepared = [ours.prepare(image, mask), ours.prepare(image, mask[::-1])]
    encoded = ours.encode(prepared)
    frame, area = np.zeros((2, 64, 64)), np.ones((64, 40))
    for n, region in enumerate((area, mask)):
        frame[n, :, 12:52] = region
    maps = hooked_maps(clip, prepared[0].pixels[:1])
    for v, region in enumerate((frame[0], frame[1], frame[0] - frame[1])):
        expected = []
        for each in maps:
            (_, rows, columns), total, weight = each.shape, 0.0, 0.0
            for r in range(rows):
                for c in range(columns):
                    cell = region[r * 64 // rows : (r + 1) * 64 // rows]
                    share = cell[:, c * 64 // columns : (c + 1) * 64 // columns].mean()
                    total, weight = total + share * each[:, r, c], weight + share
            expected.append(total / weight)
        np.testing.assert_allclose(encoded.pooled[0, v], np.concatenate(expected), atol=1e-5)
    # The views of frames have the same bits as without pooled ones, and no batch changes a mean.
    plain = mapper(clip, "whole", "masked")
    again = plain.encode([plain.prepare(image, mask), plain.prepare(image, mask[::-1])])
    assert np.array_equal(encoded.features, again.features) and again.pooled is None
    np.testing.assert_allclose(ours.encode(prepared[1:]).pooled[0], encoded.pooled[1], atol=1e-5)
    alone = mapper(clip, "whole", "inside")
    alone.frames = ()  # as for a prediction from this view alone
    only = alone.encode([alone.prepare(image, mask)])
    np.testing.assert_allclose(only.pooled[0, 0], encoded.pooled[0, 1], atol=1e-5)


@pytest.mark.promise("Where a mask is empty or full the whole image stands for every view.")
def test_an_unusable_mask_pools_over_the_image_and_a_tiny_one_still_counts():
    clip = small("vit")
    image = np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    ours, mask = mapper(clip, "whole", *POOLED), np.zeros((200, 300), bool)
    for status, given in (("empty", mask), ("full", ~mask)):
        pooled = ours.encode([ours.prepare(image, given, status)]).pooled[0]
        assert all(np.array_equal(pooled[0], one) for one in pooled[1:])
    mask[101, 151] = True  # a pixel, of which the frame has a twentieth
    found = ours.prepare(image, mask).shares[0][1]
    assert np.count_nonzero(found) >= 1 and found.argmax() == 3 * 8 + 4
    assert not np.array_equal(*ours.encode([ours.prepare(image, mask)]).pooled[0, :2])
    with pytest.raises(ValidationError, match=r"inside need the view whole"):
        EncodeParams(views=("masked", "inside"))


@pytest.mark.promise("A pooled view shows the class of its region.")
@pytest.mark.parametrize("where", ("inside", "outside"))
def test_the_class_is_found_in_the_region_that_shows_it(where):
    """Stripes along or across: of the class in one region, at random in the other."""
    clip, rng = small("timm"), np.random.default_rng(3)
    ours, y = mapper(clip, "whole", "inside", "outside"), np.arange(120) % 2
    stripes, side = np.indices((64, 64)) // 2 % 2 * 40.0, 24 if where == "inside" else 48
    prepared = []
    for label in y:
        other, mask = rng.integers(0, 2), np.zeros((64, 64), bool)
        top, left = rng.integers(0, 65 - side, 2)
        mask[top : top + side, left : left + side] = True
        inner, outer = (label, other) if where == "inside" else (other, label)
        grey = np.where(mask, stripes[inner], stripes[outer]) + rng.uniform(0, 120, (64, 64))
        prepared.append(ours.prepare(np.repeat(grey[..., None], 3, 2).astype(np.uint8), mask))
    found, scores = ours.encode(prepared), {}
    for name, X in (
        ("whole", found.features[:, 0]),
        *zip(ours.pooled, found.pooled.swapaxes(0, 1), strict=True),
    ):
        probe = make("linear-probe").fit(samples(X[:60], y[:60]), samples(X[60:80], y[60:80]))
        scores[name] = (probe.predict_proba(samples(X[80:], y[80:])).argmax(1) == y[80:]).mean()
    assert scores.pop(where) > 0.9 and max(scores.values()) < 0.8


def test_a_store_holds_views_of_two_lengths_and_one_without_pooled_views_is_as_before(tmp_path):
    pooled = {"views": ["whole", "inside", "crop"], "pooled": ["inside"], "pooled_dim": 7}
    for name, own in (("a", pooled), ("b", {"views": ["whole", "crop"]})):
        path, row = tmp_path / name / "features.zarr", np.arange(8.0).reshape(2, 4)
        with FeatureStoreWriter(path, {"made": "by hand"}, dim=4, **own) as writer:
            items = [WorkItem(one, one, path) for one in "xy"]
            writer.plan(items)
            more = {"pooled": np.full((1, 7), 3.0)} if name == "a" else {}
            writer.write(items, [FeatureRow(one, row, **more) for one in "xy"])
            if name == "a":
                with pytest.raises(ValueError, match="finite"):
                    bad = FeatureRow("x", row, pooled=np.full((1, 7), np.nan))
                    writer.write(items[:1], [bad])
        store = open_features(path)
        assert verify_store(path).ok and list(store.views) == own["views"]
        np.testing.assert_array_equal(store.image_features("crop"), row[[1, 1]])
        assert ("pooled_crc" in store.table()) == ("pooled_dim" in store.identity) == (name == "a")
    store = open_features(tmp_path / "a" / "features.zarr")
    assert store.image_features("inside", ["y"]).tolist() == [[3.0] * 7]
