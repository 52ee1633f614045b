"""Views whose features are of another length than those of texts, in joint views and in fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from pipeline.errors import ConfigError
from pipeline.learners import Samples
from pipeline.learners.joint import fit_joined, predict_joined
from pipeline.learners.medfocus import MedFocusParams, Network
from tests.learners.test_learners import draw, make

EQUATIONS = "Fusion, losses and prediction of MedFocusCLIP are the equations of its docstrings."


def samples(n: int, seed: int) -> Samples:
    """The pooled view shows the class; the whole view is noise of another length."""
    X, y, T = draw(n, seed)
    noise = np.random.default_rng(seed + 50).standard_normal((n, T.shape[1])).astype(np.float32)
    return Samples("whole+inside", {"whole": noise, "inside": np.tile(X, 2)[:, :-3]}, y, T)


@pytest.mark.parametrize("name", ("linear-probe", "nearest-prototype", "k-nn"))
def test_a_learner_without_texts_joins_features_of_several_lengths(name):
    learner = fit_joined(make(name), samples(90, 1), samples(30, 2))
    test = samples(300, 3)
    assert (predict_joined(learner, test).argmax(axis=1) == test.y).mean() > 0.7


@pytest.mark.promise("A mistyped learner or parameter is refused before any work.")
@pytest.mark.parametrize("name", ("zero-shot", "tip-adapter"))
def test_a_learner_that_compares_with_texts_refuses_other_lengths_by_name(name):
    with pytest.raises(ConfigError, match=rf"{name} compares .*inside.*learners\.{name}\.views"):
        make(name).check_lengths(samples(4, 1))


@pytest.mark.promise(EQUATIONS)
@pytest.mark.parametrize("name", ("gated-sum", "concat-mlp", "bilinear", "token-attention"))
def test_each_form_of_F_is_its_definition_image_by_image(name):
    generator, widths = torch.Generator().manual_seed(0), (6, 4) if name[0] == "t" else (10,)
    image, text = (nnf.normalize(torch.randn(n, 10, generator=generator)) for n in (5, 3))
    mean, scale = image.mean(dim=0), image.std(dim=0)
    params = MedFocusParams(attention_dim=4, fusion=name)
    made = Network(text, mean, scale, params, generator, widths).requires_grad_(False)
    torch.testing.assert_close(made.fused().fuse(image), image)  # before training M = I
    made.fusion.gate.fill_(0.8)
    F, M = made.fusion, []
    for I in image:  # noqa: E741
        Z, p = (I - mean) / scale, torch.exp(torch.stack([I @ T for T in text]) / 0.07)
        t = sum(share * T for share, T in zip(p / p.sum(), text, strict=True))
        if name == "gated-sum":
            f = (t - I) / (1 + torch.exp(-(Z @ F.gate_in @ F.gate_out)))
        elif name == "concat-mlp":
            f = torch.cat([Z / 10**0.5, t]) @ F.hidden
            f = f.clamp(min=0) @ F.output
        elif name == "bilinear":
            f = ((Z @ F.image) * (t @ F.prompt)) @ F.output
        else:
            pairs = []
            for rows, values in ((slice(0, 6), slice(0, 6)), (slice(6, 10), slice(6, 12))):
                for T in text:
                    T = T[:6] / T[:6].norm()
                    score = (Z[rows] @ F.query[rows]) @ (T @ F.key) / 4**0.5
                    pairs.append((torch.exp(score), T @ F.value_in[values] @ F.value_out))
            f = sum(e * v for e, v in pairs) / sum(e for e, _ in pairs)
        M.append(I + np.tanh(0.8) * f)
    fused = made.fused()
    torch.testing.assert_close(fused.fuse(image), torch.stack(M))
    order = np.array([2, 0, 1])
    torch.testing.assert_close(fused.of_classes(order).fuse(image), torch.stack(M))


@pytest.mark.parametrize("lambda_", (0.0, 0.5))
def test_token_attention_takes_a_view_of_another_length_and_finds_its_classes(lambda_):
    learner = make("medfocus", fusion="token-attention", epochs=40, **{"lambda": lambda_})
    train, test = samples(90, 1), samples(90, 3)
    learner.check_lengths(train)
    with pytest.raises(ConfigError, match=r"medfocus compares"):  # the first is compared with T
        learner.check_lengths(replace(train, view="inside+whole"))
    learner = fit_joined(learner, train, samples(30, 2))
    assert (predict_joined(learner, test).argmax(axis=1) == test.y).mean() > 0.6
