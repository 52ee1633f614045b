"""What CLIP encodes and what is stored of it."""

import numpy as np
import pytest

from pipeline.config import EncodeParams
from pipeline.encode.mapper import EncodeMapper
from pipeline.images import read as reader
from pipeline.models import ModelSpec, load_clip
from tests.encode.conftest import small_clip
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


def encode(mapper, images):
    """What images, as arguments of `prepare`, become in one batch."""
    return mapper.encode([mapper.prepare(*one) for one in images])


def params(**values):
    return EncodeParams(**{"views": ALL, **values})


@pytest.mark.promise(
    "Masks and features do not depend on batch size, cores, workers, order or resuming."
)
def test_features_do_not_depend_on_batch_order_or_views_per_forward_pass(clip):
    images, masks = images_and_masks()
    every = list(zip(images, masks, ["ok"] * 5, "abcde", masks, strict=True))
    mapper, small = (EncodeMapper(params(), clip, {}, forward_batch=n) for n in (32, 4))
    together = encode(mapper, every).features
    assert together.shape == (5, 6, 24) and together.dtype == np.float32
    backwards = encode(mapper, every[::-1]).features[::-1]
    alone = np.concatenate([encode(mapper, [one]).features for one in every])
    for other in (backwards, alone, encode(small, every).features):
        assert np.abs(together - other).max() < 1e-5


def test_patch_tokens_are_kept_on_request(clip):
    every = list(zip(*images_and_masks(3), strict=True))
    mapper = EncodeMapper(params(views=("whole", "oracle"), tokens=True), clip, {})
    features, tokens, _ = encode(mapper, every)
    assert tokens.shape == (3, 2, 16, 24)
    assert np.isfinite(tokens[:, 0]).all() and np.isnan(tokens[:, 1]).all()
    plain = encode(EncodeMapper(params(views=("whole",)), clip, {}), every).features
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
