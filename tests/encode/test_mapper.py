"""What CLIP encodes and what is stored of it."""

import numpy as np
import pytest

from pipeline.config import EncodeParams
from pipeline.encode.mapper import EncodeMapper
from pipeline.images import read as reader
from pipeline.models import ModelSpec, load_clip
from tests.encode.conftest import encode_images, small_clip
from tests.models.small import save_clip, small_clip_config

ALL = ("whole", "masked", "crop", "binary", "oracle", "random")


def images_and_masks(n=5):
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (30 + 9 * i, 70 - 6 * i, 3), dtype=np.uint8) for i in range(n)]
    masks = []
    for i, image in enumerate(images):
        mask = np.zeros(image.shape[:2], bool)
        mask[5 : 15 + i, 8:20] = True
        masks.append(mask)
    return images, masks


def params(**values):
    return EncodeParams(**{"views": ALL, **values})


@pytest.mark.promise(
    "Masks and features do not depend on batch size, cores, workers, order or resuming."
)
def test_features_do_not_depend_on_batch_order_or_views_per_forward_pass(clip):
    images, masks = images_and_masks()
    seeds = list("abcde")
    together = encode_images(images, masks, params(), clip, seeds=seeds, truths=masks)
    assert together.shape == (5, 6, 24) and together.dtype == np.float32
    backwards = encode_images(
        images[::-1], masks[::-1], params(), clip, seeds=seeds[::-1], truths=masks[::-1]
    )[::-1]
    every = list(zip(images, masks, ["ok"] * 5, seeds, masks, strict=True))
    mapper, small = (EncodeMapper(params(), clip, {}, forward_batch=n) for n in (32, 4))
    alone = np.concatenate([mapper.encode([mapper.prepare(*one)])[0] for one in every])
    split, _ = small.encode([small.prepare(*one) for one in every])
    for other in (backwards, alone, split):
        assert np.abs(together - other).max() < 1e-5


@pytest.mark.parametrize("status", ["empty", "full"])
def test_an_unusable_mask_falls_back_to_the_whole_image(clip, status):
    images, masks = images_and_masks(1)
    features = encode_images(images, masks, params(), clip, statuses=[status], truths=masks)[0]
    whole, masked, crop, binary, oracle, random = features
    for view in (masked, crop, random):
        assert np.array_equal(view, whole)
    assert not np.allclose(binary, whole) and not np.allclose(oracle, whole)


@pytest.mark.parametrize("truth", [None, np.zeros((30, 70), bool)])
def test_oracle_is_nan_without_ground_truth_and_the_other_views_are_not(clip, truth):
    images, masks = images_and_masks(1)
    features = encode_images(images, masks, params(), clip, truths=[truth])[0]
    assert np.isnan(features[4]).all()
    assert np.isfinite(np.delete(features, 4, axis=0)).all()
    alone = encode_images(images, masks, params(), clip, views=["oracle"], truths=[truth])
    assert alone.shape == (1, 1, 24) and np.isnan(alone).all()


def test_patch_tokens_are_kept_on_request(clip):
    images, masks = images_and_masks(3)
    mapper = EncodeMapper(params(views=("whole", "oracle"), tokens=True), clip, {})
    prepared = [mapper.prepare(i, m) for i, m in zip(images, masks, strict=True)]
    features, tokens = mapper.encode(prepared)
    assert tokens.shape == (3, 2, 16, 24)
    assert np.isfinite(tokens[:, 0]).all() and np.isnan(tokens[:, 1]).all()
    plain = encode_images(images, masks, params(), clip, views=["whole"])
    assert np.allclose(features[:, 0], plain[:, 0], atol=1e-5)


@pytest.mark.promise(
    "Another checkpoint (by one bit), activation, fill, geometry, precision, prompt or reader rule "
    "is refused with the difference."
)
def test_everything_that_changes_features_changes_the_identity(clip, tmp_path, monkeypatch):
    def identity(model=clip, **values):
        return EncodeMapper(params(**values), model, {}).identity

    base = identity()
    assert identity() == base == identity(max_failed=0.5)
    changed = [
        identity(geometry="squash"),
        identity(fill="mean"),
        identity(crop_margin=0.2),
        identity(views=("whole", "masked")),
        identity(tokens=True),
        identity(model=small_clip(seed=1)),
        identity(model=small_clip(precision="bf16")),
    ]
    assert all(other != base for other in changed)
    weights = save_clip(tmp_path / "clip.safetensors")
    spec = ModelSpec(name="ViT-B-32", checkpoint=str(weights))
    loaded = [load_clip(spec, config=small_clip_config(quick_gelu=gelu)) for gelu in (False, True)]
    data = bytearray(weights.read_bytes())
    data[-4] ^= 1  # one weight, in its last place
    weights.write_bytes(data)
    loaded.append(load_clip(spec, config=small_clip_config()))
    assert len({str(identity(model=model)) for model in loaded}) == 3
    monkeypatch.setattr(reader, "READER_VERSION", "another")
    assert identity() != base
