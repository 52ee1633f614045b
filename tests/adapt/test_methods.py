"""Each method of adapting SAM2: what it trains, what its file holds, and what a reload gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from pipeline.adapt.examples import Examples, draw
from pipeline.adapt.files import load_adapter, write_adapter
from pipeline.adapt.fit import answer, fit, loss_of
from pipeline.adapt.methods import METHODS, insert, projections, trained
from pipeline.config import AdaptParams
from pipeline.errors import ModelError
from pipeline.models.sam2 import Sam2ImagePredictor, instantiate_sam2
from pipeline.segment.predictor import BatchPredictor, Prompt
from tests.models.small import small_sam2_config
from tests.segment.small_sam2 import SIZE, scene, untrained


def examples(n: int = 6) -> Examples:
    scenes = [scene(i, SIZE, SIZE) for i in range(n)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).movedim(-1, 1)
    return Examples(images, torch.from_numpy(np.stack([mask for _, mask in scenes])))


def masks(predictor: Sam2ImagePredictor) -> tuple[torch.Tensor, np.ndarray]:
    """What the stage would store: logits and estimates of the IoU without a prompt."""
    batch = BatchPredictor(predictor)
    frames = [batch.preprocess(scene(50 + i, 40, 60)[0]) for i in range(2)]
    return batch.decode(batch.embed(frames), [Prompt()] * 2, [(40, 60)] * 2)


def adapted(method: str, state, steps: int = 12, rank: int = 4):
    """A small SAM2 adapted to bright ellipses, its losses, and what finishes it."""
    predictor = untrained()
    params = AdaptParams(method=method, steps=steps, batch_size=4, rank=rank, learning_rate=3e-3)
    torch.manual_seed(1)
    finish = insert(predictor.model, method, rank)
    return predictor, fit(predictor, examples(), params, state), finish


@pytest.mark.promise(
    "An adapter file reloads to the same masks bit for bit; the weights of the base stay as they "
    "are, and are not copied."
)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_its_file_gives_the_same_masks(method, tmp_path):
    base = {name: value.clone() for name, value in untrained().model.named_parameters()}
    predictor, losses, finish = adapted(method, tmp_path / "state")
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    about = {"dataset": "toy", "variant": "v", "part": "0", "images": ["a"]}
    about |= {"base": untrained().fingerprint, "params": {"method": method, "rank": 4}}
    path = tmp_path / "0.safetensors"
    write_adapter(path, predictor, base, about)
    state = load_file(path)
    encoder = [name for name in state if name.startswith("image_encoder")]
    word = {"lora": "lora_", "adapter": "bottlenecks.", "full": "", "decoder": None}[method]
    assert all(word in name for name in encoder) and bool(encoder) == (method != "decoder")
    frozen = trained(predictor.model).keys() ^ dict(predictor.model.named_parameters()).keys()
    for name in frozen:  # not one bit of what is not trained
        known = base[name.replace(".base_layer", "")]
        assert torch.equal(dict(predictor.model.named_parameters())[name], known)
    finish()
    again = load_adapter(path, untrained(), "toy")
    for one, other in zip(masks(predictor), masks(again), strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert again.fingerprint["adapter"]["images"] == ["a"]
    assert not np.array_equal(*(np.asarray(masks(p)[0]) for p in (again, untrained())))
    with pytest.raises(ModelError, match="another base model: seed: 0 in the store, 1 now"):
        load_adapter(path, untrained(1), "toy")
    with pytest.raises(ModelError, match="one of dataset toy, not of other"):
        load_adapter(path, untrained(), "other")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"damaged.*run: pipeline adapt"):
        load_adapter(path, untrained(), "toy")


def test_merged_updates_answer_as_the_separate_ones_and_new_modules_change_nothing(tmp_path):
    frames = torch.stack([untrained()._transforms(scene(i, SIZE, SIZE)[0]) for i in range(2)])
    with torch.no_grad():
        before = answer(untrained(), frames)[0]
        for method in ("lora", "adapter"):
            fresh = untrained()
            insert(fresh.model, method, 4)
            assert torch.equal(answer(fresh, frames)[0], before)
    predictor, _, finish = adapted("lora", tmp_path / "state", steps=4)
    layers = [m for m in predictor.model.modules() if isinstance(m, BaseTunerLayer)]
    assert layers and all(layer.lora_B["own"].weight.any() for layer in layers)
    with torch.no_grad():
        apart = answer(predictor, frames)[0]
        finish()
        together = answer(predictor, frames)[0]
    assert not any(isinstance(m, BaseTunerLayer) for m in predictor.model.modules())
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, together, atol=1e-3)


def test_a_hierarchical_transformer_is_adapted_in_its_attention_and_after_its_blocks():
    config = small_sam2_config()
    config["model"] |= {"image_size": 256}
    torch.manual_seed(0)
    for method in ("lora", "adapter"):
        model = instantiate_sam2(config["model"]).eval()
        blocks = len(model.image_encoder.trunk.blocks)
        names = projections(model)
        assert len(names) == 2 * blocks and names[0].endswith("blocks.0.attn.qkv")
        insert(model, method, 2)
        predictor = Sam2ImagePredictor(model, config["mean"], config["std"])
        loss = loss_of(*answer(predictor, torch.randn(1, 3, 256, 256)), torch.ones(1, 1, 256, 256))
        loss.backward()
        inner = ("lora_B", "bottlenecks")[method == "adapter"]
        moved = [n for n, p in trained(model).items() if inner in n and p.grad.any()]
        assert len(moved) == 2 * blocks  # U and its bias; B of queries, keys, values and of output


def test_the_loss_of_known_answers_and_a_batch_that_seed_and_step_alone_decide():
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, :2] = 1
    sure = (masks * 2 - 1) * 50
    assert float(loss_of(sure, torch.ones(2, 1), masks)) == pytest.approx(0, abs=1e-6)
    # p = 0.5: BCE ln 2; Dice (8 + 1) / (8 + 8 + 1); nothing is found, so the IoU is 0.
    flat = float(loss_of(torch.zeros(2, 1, 4, 4), torch.full((2, 1), 0.5), masks))
    assert flat == pytest.approx(np.log(2) + 1 - 9 / 17 + 0.25)
    predictor, six = untrained(), examples()
    one, other, later = (six.batch(predictor, 3, step, 4) for step in (5, 5, 6))
    assert torch.equal(one[0], other[0]) and not torch.equal(one[0], later[0])
    images, found = one
    inside = (images.mean(1, keepdim=True) * found).sum() / found.sum()
    outside = (images.mean(1, keepdim=True) * (1 - found)).sum() / (1 - found).sum()
    assert inside > outside + 0.5 and found.unique().tolist() == [0, 1]  # the mask moves along


def test_images_are_drawn_one_of_each_patient_first_and_more_masks_add_to_fewer():
    units = {f"{p}{i}": p for p in "abcd" for i in range(5)}
    four, six = (draw(list(units), units, shots, 0, "1") for shots in (4, 6))
    assert {units[i] for i in four} == set("abcd") and set(four) < set(six)
    assert draw(list(units)[::-1], units, 6, 0, "1") == six != draw(list(units), units, 6, 1, "1")
    assert draw(list(units), units, 0) == sorted(units)
