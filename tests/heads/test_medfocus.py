"""The equations: M = F(T, I), L = lambda * L_c + (1 - lambda) * L_e."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.heads import DivergedError
from pipeline.heads.fusion import Fusion, cosines_and_logits
from pipeline.heads.loss import classification_loss, contrastive_loss, medfocus_loss
from pipeline.heads.medfocus import MedFocus
from pipeline.heads.medfocus_probe import MedFocusProbe
from tests.heads.projects import small_params
from tests.heads.test_heads import draw


def inputs(n=12, d=16, classes=3):
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(n, d, generator=generator), dim=1)
    T = F.normalize(torch.randn(classes, d, generator=generator), dim=1)
    mean, scale = image.mean(dim=0), image.std(dim=0)
    fusion = Fusion(d, 4, generator)
    weight, bias = torch.randn(d, classes, generator=generator), torch.randn(classes)
    return image, T, mean, scale, fusion, weight, bias


def test_the_gate_starts_closed_so_that_M_is_the_image_embedding():
    image, T, mean, scale, fusion, *_ = inputs()
    torch.testing.assert_close(fusion(image, (image - mean) / scale, T), image)


def test_M_is_the_image_plus_gated_attention_over_all_prompts():
    image, T, mean, scale, fusion, *_ = inputs()
    fusion.gate.data.fill_(0.8)
    asked = (image - mean) / scale
    attention = torch.softmax((asked @ fusion.query) @ (T @ fusion.key).T / 4**0.5, dim=1)
    values = T @ fusion.value_in @ fusion.value_out
    expected = image + np.tanh(0.8) * attention @ values
    torch.testing.assert_close(fusion(image, asked, T), expected)


def test_training_without_making_M_gives_the_logits_of_M():
    image, T, mean, scale, fusion, weight, bias = inputs()
    fusion.gate.data.fill_(0.7)
    asked = (image - mean) / scale
    M = fusion(image, asked, T)
    cosines, logits = cosines_and_logits(
        fusion, weight, bias, T, image=image, asked=asked, image_text=image @ T.T, scale=scale
    )
    torch.testing.assert_close(cosines, F.normalize(M, dim=1) @ T.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, ((M - mean) / scale) @ weight + bias, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("lambda_", "single"), ((0, "classification"), (1, "contrastive")))
def test_lambda_zero_and_one_are_the_single_losses(lambda_, single):
    generator = torch.Generator().manual_seed(1)
    similarity, logits = (torch.randn(8, 3, generator=generator) for _ in range(2))
    y = torch.arange(8) % 3
    alone = classification_loss(logits, y) if single == "classification" else None
    alone = contrastive_loss(similarity, y) if alone is None else alone
    assert medfocus_loss(similarity, logits, y, lambda_) == alone
    # The other term is not looked at: were it weighted by zero, its NaN would come through.
    broken = torch.full((8, 3), float("nan"))
    pair = (broken, logits) if lambda_ == 0 else (similarity, broken)
    assert medfocus_loss(*pair, y, lambda_) == alone


def test_the_mixed_loss_is_the_weighted_sum():
    generator = torch.Generator().manual_seed(1)
    similarity, logits = (torch.randn(8, 3, generator=generator) for _ in range(2))
    y = torch.arange(8) % 3
    mixed = 0.3 * contrastive_loss(similarity, y) + 0.7 * classification_loss(logits, y)
    torch.testing.assert_close(medfocus_loss(similarity, logits, y, 0.3), mixed)


def test_with_one_image_a_class_the_contrastive_loss_is_that_of_clip():
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(3)
    clip = (F.cross_entropy(similarity, y) + F.cross_entropy(similarity.T, y)) / 2
    torch.testing.assert_close(contrastive_loss(similarity, y), clip)


def test_the_contrastive_loss_is_finite_when_a_class_is_not_in_the_batch():
    similarity = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(contrastive_loss(similarity, torch.tensor([0, 0, 2, 2])))


@pytest.mark.parametrize("lambda_", (0.0, 0.5, 1.0))
def test_the_head_learns_at_every_lambda(lambda_):
    X, y, T = draw(120, 1)
    head = MedFocus(lambda_=lambda_, epochs=40, attention_dim=8, learning_rate=1e-2)
    head.fit(X, y, T=T, X_val=X[:30], y_val=y[:30])
    X_test, y_test, _ = draw(200, 3)
    assert (head.predict_proba(X_test).argmax(axis=1) == y_test).mean() > 0.7


def test_at_lambda_one_prediction_comes_from_the_cosines():
    X, y, T = draw(60, 1)
    head = MedFocus(lambda_=1.0, epochs=5, attention_dim=8)
    head.fit(X, y, T=T, X_val=X[:0], y_val=y[:0])
    assert not head.weight_.any()  # the classifier was not trained
    M = head.fuse(X)
    cosine = (M / np.linalg.norm(M, axis=1, keepdims=True)) @ head.text_.T
    np.testing.assert_array_equal(head.predict_proba(X).argmax(axis=1), cosine.argmax(axis=1))


def test_an_exploding_learning_rate_is_a_divergence():
    X, y, T = draw(60, 1)
    with pytest.raises(DivergedError):
        MedFocus(learning_rate=1e30, epochs=50).fit(X, y, T=T, X_val=X, y_val=y)


def test_training_stops_early_and_keeps_the_best_epoch():
    X, y, T = draw(60, 1, spread=4)
    X_val, y_val, _ = draw(60, 2, spread=4)
    head = MedFocus(epochs=400, patience=5, attention_dim=8, learning_rate=3e-2)
    head.fit(X, y, T=T, X_val=X_val, y_val=y_val)
    assert 1 <= head.chosen["epoch"] < 395
    # What is kept is the best epoch's: training that ends there, with nothing to choose by, gives
    # the same bits.
    again = MedFocus(epochs=head.chosen["epoch"], attention_dim=8, learning_rate=3e-2)
    again.fit(X, y, T=T, X_val=X_val[:0], y_val=y_val[:0])
    for name, array in again.to_tensors().items():
        np.testing.assert_array_equal(head.to_tensors()[name], array)


def test_the_probe_uses_a_shared_fusion_as_it_is():
    X, y, T = draw(60, 1)
    X_val, y_val, _ = draw(30, 2)
    kwargs = {"T": T, "X_val": X_val, "y_val": y_val}
    focus = MedFocus(epochs=10, attention_dim=8).fit(X, y, **kwargs)
    shared = MedFocusProbe(MedFocus(epochs=10, attention_dim=8))
    shared.share(focus)
    shared.fit(X, y, **kwargs)
    own = MedFocusProbe(MedFocus(epochs=10, attention_dim=8)).fit(X, y, **kwargs)
    for name, array in own.to_tensors().items():
        np.testing.assert_array_equal(array, shared.to_tensors()[name])


def test_the_seed_decides_where_training_starts():
    X, y, T = draw(60, 1)
    params = small_params(train__epochs=2).train
    first, again, other = (
        MedFocus.from_params(params, seed=seed).fit(X, y, T=T, X_val=X[:0], y_val=y[:0])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.attention_, again.attention_)
    assert (first.attention_ != other.attention_).any()
