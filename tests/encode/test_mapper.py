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
    split = small.encode([small.prepare(*one) for one in every]).features
    for other in (backwards, alone, split):
        assert np.abs(together - other).max() < 1e-5


def test_patch_tokens_are_kept_on_request(clip):
    images, masks = images_and_masks(3)
    mapper = EncodeMapper(params(views=("whole", "oracle"), tokens=True), clip, {})
    prepared = [mapper.prepare(i, m) for i, m in zip(images, masks, strict=True)]
    features, tokens, _ = mapper.encode(prepared)
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
    changed = {"geometry": "squash", "fill": "mean", "crop_margin": 0.2, "tokens": True}
    assert all(identity(**{name: value}) != base for name, value in changed.items())
    assert base not in (identity(views=("whole",)), identity(small_clip(precision="bf16")))
    weights = save_clip(tmp_path / "clip.safetensors")
    spec = ModelSpec(name="ViT-B-32", checkpoint=str(weights))
    loaded = [load_clip(spec, config=small_clip_config(quick_gelu=gelu)) for gelu in (False, True)]
    data = bytearray(weights.read_bytes())
    data[-4] ^= 1  # one weight, in its last place
    weights.write_bytes(data)
    loaded.append(load_clip(spec, config=small_clip_config()))
    assert len({str(identity(model=model)) for model in loaded}) == 3
    # What decides a soft view is in the identity of the stores that have it, and in no other.
    assert identity(dim=0.5) == base and "view_rules" not in base
    soft = [identity(views=("whole", "dim", "blur"), dim=dim)["view_rules"] for dim in (0.35, 0.5)]
    assert soft == [{"dim": 0.35, "blur": 0.05}, {"dim": 0.5, "blur": 0.05}]
    monkeypatch.setattr(reader, "READER_VERSION", "another")
    assert identity() != base
