"""The equations of MedFocusCLIP: M = F(T, I), L = lambda * L_c + (1 - lambda) * L_e."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from pipeline.learners import DivergedError
from pipeline.learners.medfocus import MedFocusParams, Network, contrastive_loss, medfocus_loss
from tests.learners.test_learners import NONE, TRAIN, VAL, draw, make, samples

EQUATIONS = "Fusion, losses and prediction of MedFocusCLIP are the equations of its docstrings."


def network(gate: float, fusion: str = "attention", widths: tuple[int, ...] = (16,)):
    """Return a network of three classes with random parameters, and images I (12, 16)."""
    generator = torch.Generator().manual_seed(0)
    image, text = (nnf.normalize(torch.randn(n, 16, generator=generator), dim=1) for n in (12, 3))
    params = MedFocusParams(attention_dim=4, fusion=fusion)
    made = Network(text, image.mean(dim=0), image.std(dim=0), params, generator, widths)
    made.fusion.gate.data.fill_(gate)
    made.weight.data.normal_(generator=generator)
    made.bias.data.normal_(generator=generator)
    return made.requires_grad_(False), image


@pytest.mark.promise(EQUATIONS)
def test_M_is_the_image_plus_gated_attention_over_all_prompts():
    made, image = network(gate=0.8)
    F = made.fusion
    Z = (image - made.mean) / made.scale
    attention = torch.softmax((Z @ F.query) @ (made.text @ F.key).T / 4**0.5, dim=1)
    M = image + np.tanh(0.8) * attention @ (made.text @ F.value_in @ F.value_out)
    fused = made.fused()
    torch.testing.assert_close(fused.fuse(image), M)
    Z = (M - made.mean) / made.scale
    torch.testing.assert_close(fused.classify(M), Z @ made.weight + made.bias)
    cosine = nnf.normalize(M, dim=1) @ made.text.T
    torch.testing.assert_close(fused.similarity(M), cosine / 0.07)


@pytest.mark.promise(EQUATIONS)
@pytest.mark.parametrize("name", ("gated-sum", "concat-mlp", "bilinear", "token-attention"))
def test_each_form_of_F_is_its_definition_image_by_image(name):
    made, image = network(0.0, name, (12, 4) if name == "token-attention" else (16,))
    torch.testing.assert_close(made.fused().fuse(image), image)  # before training M = I
    made.fusion.gate.fill_(0.8)
    F, M, text = made.fusion, [], made.text
    for I in image:  # noqa: E741
        Z, p = (I - made.mean) / made.scale, torch.exp(torch.stack([I @ T for T in text]) / 0.07)
        t = sum(share * T for share, T in zip(p / p.sum(), text, strict=True))
        if name == "gated-sum":
            f = (t - I) / (1 + torch.exp(-(Z @ F.gate_in @ F.gate_out)))
        elif name == "concat-mlp":
            f = torch.cat([Z / 16**0.5, t]) @ F.hidden
            f = f.clamp(min=0) @ F.output
        elif name == "bilinear":
            f = ((Z @ F.image) * (t @ F.prompt)) @ F.output
        else:
            pairs = []
            for rows, values in ((slice(0, 12), slice(0, 12)), (slice(12, 16), slice(12, 24))):
                for T in text:
                    T = T[:12] / T[:12].norm()
                    score = (Z[rows] @ F.query[rows]) @ (T @ F.key) / 4**0.5
                    pairs.append((torch.exp(score), T @ F.value_in[values] @ F.value_out))
            f = sum(e * v for e, v in pairs) / sum(e for e, _ in pairs)
        M.append(I + np.tanh(0.8) * f)
    fused = made.fused()
    torch.testing.assert_close(fused.fuse(image), torch.stack(M))
    order = np.array([2, 0, 1])
    torch.testing.assert_close(fused.of_classes(order).fuse(image), torch.stack(M))


@pytest.mark.promise(EQUATIONS)
@pytest.mark.parametrize("lambda_", (0.0, 0.3, 1.0))
def test_the_loss_is_the_weighted_sum_and_at_zero_and_one_the_single_loss(lambda_):
    made, image = network(gate=0.5)
    y, M = torch.arange(12) % 3, made.fused().fuse(image)
    contrastive = contrastive_loss(made.fused().similarity(M), y)
    entropy = nnf.cross_entropy(made.fused().classify(M), y)
    expected = lambda_ * contrastive + (1 - lambda_) * entropy
    torch.testing.assert_close(medfocus_loss(made.fused(), M, y, lambda_), expected)
    # A term with weight zero is not computed: its NaN would come through.
    if lambda_ == 0:
        made.log_inverse_temperature.fill_(float("nan"))
    if lambda_ == 1:
        made.bias.fill_(float("nan"))
    torch.testing.assert_close(medfocus_loss(made.fused(), M, y, lambda_), expected)


@pytest.mark.promise(EQUATIONS)
def test_with_one_image_a_class_the_contrastive_loss_is_that_of_clip():
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(3)
    clip = (nnf.cross_entropy(similarity, y) + nnf.cross_entropy(similarity.T, y)) / 2
    torch.testing.assert_close(contrastive_loss(similarity, y), clip)


def test_at_lambda_one_prediction_comes_from_the_cosines():
    learner = make("medfocus", **{"lambda": 1.0, "epochs": 5}).fit(TRAIN, NONE)
    assert not learner.weight_.any()  # the classifier was not trained
    M = learner.fuse(TRAIN.X)
    cosine = (M / np.linalg.norm(M, axis=1, keepdims=True)) @ learner.text_.T
    said = learner.predict_proba(TRAIN).argmax(axis=1)
    np.testing.assert_array_equal(said, cosine.argmax(axis=1))


@pytest.mark.promise("A fit that becomes infinite or NaN is reported as diverged.")
def test_an_exploding_learning_rate_is_a_divergence():
    with pytest.raises(DivergedError):
        make("medfocus", learning_rate=1e30).fit(TRAIN, VAL)


@pytest.mark.promise("Training stops early and keeps the epoch with the lowest validation loss.")
def test_training_stops_early_and_keeps_the_best_epoch():
    train, val = samples(*draw(60, 1, spread=4)), samples(*draw(60, 2, spread=4))
    given = {"learning_rate": 3e-2, "patience": 5}
    learner = make("medfocus", epochs=400, **given).fit(train, val)
    assert 1 <= learner.chosen["epoch"] < 395
    # Training that ends at that epoch, with nothing to choose by, gives the same bits.
    again = make("medfocus", epochs=learner.chosen["epoch"], **given).fit(train, NONE)
    for name, array in again.tensors.items():
        np.testing.assert_array_equal(learner.tensors[name], array)


@pytest.mark.promise(EQUATIONS)
def test_medfocus_probe_is_a_linear_probe_on_the_M_of_medfocus():
    own, base = make("medfocus-probe").fit(TRAIN, VAL), make("medfocus").fit(TRAIN, VAL)
    for name, array in base.tensors.items():
        np.testing.assert_array_equal(array, own.tensors[name])
    M, M_val = (samples(base.fuse(part.X), part.y, part.text) for part in (TRAIN, VAL))
    probe = make("linear-probe").fit(M, M_val)
    np.testing.assert_array_equal(own.predict_proba(TRAIN), probe.predict_proba(M))
