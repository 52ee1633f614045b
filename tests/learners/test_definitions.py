"""Each learner on cached features is its published definition, written again in slow, plain loops.

Gradients here are differences of the loss, and optimisers are their formulas, number by number.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax

from pipeline.errors import ConfigError
from pipeline.learners import get_learner
from pipeline.learners.base import find_learner
from tests.learners.test_learners import samples

DEFINED = "Each learner on cached features is the definition that its docstring cites."
RULE = "Hyperparameters are chosen on the validation part by one rule, from at most seven values."
D, C = 4, 3


def tiny(n: int, seed: int, y=None):
    """Return samples of n images in which neither image nor text tells the class for sure."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((C, D))
    y = np.arange(n) % C if y is None else np.array(y)
    X = centres[y] + 1.2 * rng.standard_normal((n, D))
    return samples(3 * X, y, (centres[[0, 2, 1]] + 0.3).astype(np.float32))


TRAIN, VAL, TEST = tiny(9, 1, y=[0, 0, 0, 0, 1, 1, 1, 2, 2]), tiny(24, 2), tiny(12, 3)
TEXT = [t / np.linalg.norm(t) for t in TRAIN.text.astype(np.float64)]


def lengths_one(part) -> list[np.ndarray]:
    return [x / math.sqrt(sum(v * v for v in x)) for x in part.X.astype(np.float64)]


def mean_loss(rows, y) -> float:
    return -sum(math.log(softmax(row)[c]) for row, c in zip(rows, y, strict=True)) / len(y)


def slopes(loss, arrays) -> list[np.ndarray]:
    """The gradient of loss() by every entry of the arrays, which are changed and put back."""
    found = [np.zeros_like(array) for array in arrays]
    for array, slope in zip(arrays, found, strict=True):
        for at in np.ndindex(array.shape):
            here, step = array[at], 1e-6
            array[at] = here + step
            above = loss()
            array[at] = here - step
            slope[at], array[at] = (above - loss()) / (2 * step), here
    return found


def adamw(loss, arrays, *, lr, decay, epochs, eps) -> None:
    """AdamW on all images at once; its rate falls to zero along half a cosine (in place)."""
    first, second = ([np.zeros_like(a) for a in arrays] for _ in range(2))
    for t in range(1, epochs + 1):
        rate = lr * (1 + math.cos(math.pi * (t - 1) / epochs)) / 2
        for k, g in enumerate(slopes(loss, arrays)):
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g * g
            arrays[k] *= 1 - rate * decay
            step = np.sqrt(second[k] / (1 - 0.999**t)) + eps
            arrays[k] -= rate * first[k] / (1 - 0.9**t) / step


def best(predict, **grids):
    """The candidate with the most right validation images, then the lowest log loss."""
    judged = []
    for values in product(*grids.values()):
        candidate = dict(zip(grids, values, strict=True))
        proba = np.array(predict(VAL, **candidate))
        right = sum(int(np.argmax(p) == c) for p, c in zip(proba, VAL.y, strict=True))
        logs = sum(math.log(max(p[c], 1e-7)) for p, c in zip(proba, VAL.y, strict=True))
        judged.append((right, logs, candidate))
    right, _, candidate = max(judged, key=lambda one: one[:2])
    return candidate, right / len(VAL)


def fit(name: str, val=VAL, **params):
    cls = get_learner(name)
    return cls(cls.Parameters.model_validate(params), seed=5).fit(TRAIN, val)


def check(learner, predict, rtol=1e-4, **grids) -> None:
    """The learner chose what the slow `predict(part, **candidate)` is best with, and equals it."""
    candidate, score = best(predict, **grids)
    assert {k: v for k, v in learner.chosen.items() if k != "epoch"} == candidate
    assert learner.val_score == pytest.approx(score)
    expected = np.array(predict(TEST, **candidate))
    np.testing.assert_allclose(learner.predict_proba(TEST), expected, rtol=rtol, atol=rtol)
    assert len(set(expected.argmax(axis=1))) > 1


@pytest.mark.promise(DEFINED)
def test_nearest_prototype_is_the_nearest_mean_of_centred_images_of_length_one():
    mean = sum(TRAIN.X.astype(np.float64)) / len(TRAIN)

    def embed(x):
        return (x - mean) / math.sqrt(sum((x - mean) ** 2))

    def predict(part, scale):
        means = []
        for c in range(C):
            mine = [embed(x) for x, label in zip(TRAIN.X, TRAIN.y, strict=True) if label == c]
            means.append(sum(mine) / len(mine))
        return [softmax([-scale * sum((embed(x) - m) ** 2) for m in means]) for x in part.X]

    check(fit("nearest-prototype"), predict, scale=(1, 2, 4, 8, 16, 32, 64))


@pytest.mark.promise(DEFINED)
def test_k_nn_is_the_weighted_vote_of_the_most_similar_images():
    def predict(part, k):
        rows = []
        for f in lengths_one(part):
            pairs = zip(lengths_one(TRAIN), TRAIN.y, strict=True)
            near = sorted(((f @ g, c) for g, c in pairs), reverse=True)[:k]
            votes = [sum(math.exp(s / 0.1) for s, label in near if label == c) for c in range(C)]
            rows.append([vote / sum(votes) for vote in votes])
        return rows

    grid = (1, 2, 3, 5, 9, 33)  # there are nine images
    check(fit("k-nn", k=grid, temperature=0.1), predict, rtol=5e-3, k=grid)


def cache_logits(part, beta, alpha, keys):
    """Tip-Adapter's logits of each image, with a scale of 5."""
    rows = []
    for f in lengths_one(part):
        rows.append([5.0 * (f @ t) for t in TEXT])
        for key, c in zip(keys, TRAIN.y, strict=True):
            rows[-1][c] += alpha * math.exp(-beta * (1 - f @ key))
    return rows


@pytest.mark.promise(DEFINED)
def test_tip_adapter_adds_the_affinities_of_the_cache_to_the_zero_shot_logits():
    def predict(part, beta, alpha):
        return softmax(cache_logits(part, beta, alpha, lengths_one(TRAIN)), axis=1)

    grids = {"beta": (0.5, 2.0, 5.5, 12.0), "alpha": (0.1, 1.0, 4.0)}
    check(fit("tip-adapter", scale=5.0, **grids), predict, rtol=5e-3, **grids)


@pytest.mark.promise(DEFINED)
def test_tip_adapter_f_trains_the_keys_at_the_middle_of_the_grids():
    keys = np.array(lengths_one(TRAIN))

    def loss():
        return mean_loss(cache_logits(TRAIN, 5.5, 1.0, keys), TRAIN.y)

    before = loss()
    adamw(loss, [keys], lr=0.05, decay=0.1, epochs=6, eps=1e-4)
    assert loss() < before - 0.1
    grids = {"beta": (2.0, 5.5, 12.0), "alpha": (0.1, 1.0, 4.0)}
    own = {"scale": 5.0, "learning_rate": 0.05, "weight_decay": 0.1, "epochs": 6, **grids}
    learner = fit("tip-adapter-f", val=tiny(0, 2), **own)
    assert learner.chosen == {"epoch": 6, "beta": 5.5, "alpha": 1.0} and learner.val_score is None
    np.testing.assert_allclose(learner.keys_, keys, atol=2e-3)
    expected = softmax(cache_logits(TEST, 5.5, 1.0, keys), axis=1)
    np.testing.assert_allclose(learner.predict_proba(TEST), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.promise(DEFINED)
def test_clip_adapter_mixes_a_bottleneck_into_the_image_feature():
    rng = torch.Generator().manual_seed(5)  # both layers start as torch starts a linear layer
    down, up = (
        ((2 * torch.rand(shape, generator=rng) - 1) / shape[0] ** 0.5).double().numpy()
        for shape in ((D, 2), (2, D))
    )

    def logits(x, ratio):  # of features as they are, of any length
        hidden = [max(0.0, sum(x[i] * down[i, j] for i in range(D))) for j in range(2)]
        out = [max(0.0, sum(hidden[j] * up[j, i] for j in range(2))) for i in range(D)]
        mixed = np.array([ratio * o + (1 - ratio) * v for o, v in zip(out, x, strict=True)])
        return [5.0 * (mixed @ t) / math.sqrt(mixed @ mixed) for t in TEXT]

    def loss():
        return mean_loss([logits(x, 0.6) for x in TRAIN.X.astype(np.float64)], TRAIN.y)

    before = loss()
    adamw(loss, [down, up], lr=0.05, decay=0.1, epochs=6, eps=1e-8)
    assert loss() < before - 0.05
    own = {"scale": 5.0, "learning_rate": 0.05, "weight_decay": 0.1, "epochs": 6, "reduction": 2}
    learner = fit("clip-adapter", val=tiny(0, 2), ratio=[0.6], **own)
    assert learner.chosen == {"ratio": 0.6, "epoch": 6}
    np.testing.assert_allclose(learner.down_, down, atol=1e-4)
    expected = [softmax(logits(x, 0.6)) for x in TEST.X.astype(np.float64)]
    np.testing.assert_allclose(learner.predict_proba(TEST), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.promise(RULE)
@pytest.mark.parametrize("name", ["tip-adapter-f", "clip-adapter"])
def test_training_keeps_the_epoch_that_is_best_on_validation(name):
    one = {"clip-adapter": {"ratio": [0.4]}, "tip-adapter-f": {"alpha": [1.0], "beta": [5.5]}}[name]
    own = {"scale": 5.0, "learning_rate": 0.1, "epochs": 12, "patience": 12} | one

    class Recorded(get_learner(name)):
        rows: tuple = ()

        def minimise(self, weights, logits, train, val, rng):
            def seen(image):
                out = logits(image)
                if not torch.is_grad_enabled():
                    self.rows += ([softmax(row) for row in out.double().tolist()],)
                return out

            return super().minimise(weights, seen, train, val, rng)

    learner = Recorded(Recorded.Parameters.model_validate(own), seed=5).fit(TRAIN, VAL)
    epoch, score = best(lambda _, epoch: learner.rows[epoch - 1], epoch=range(1, 13))
    assert learner.chosen["epoch"] == epoch["epoch"] < 12 and learner.val_score == score
    kept = np.array(learner.rows[epoch["epoch"] - 1])
    np.testing.assert_allclose(learner.predict_proba(VAL), kept, atol=5e-3)


@pytest.mark.promise(DEFINED)
def test_lp_plus_plus_descends_in_w_and_alpha_with_the_steps_of_their_curvatures():
    F, n = np.array(lengths_one(TRAIN)), len(TRAIN)
    w = np.array([sum(F[i] for i in range(n) if TRAIN.y[i] == c) for c in range(C)])
    own = [np.mean([F[i] @ TEXT[c] for i in range(n) if TRAIN.y[i] == c]) for c in range(C)]
    alpha = np.full(C, 250 * sum(own) / C)

    def logits(f):
        return [f @ (w[c] + alpha[c] * TEXT[c]) for c in range(C)]

    def loss():
        return mean_loss([logits(f) for f in F], TRAIN.y)

    rate_w = 4 * n / max(np.linalg.eigvals(F.T @ F).real)
    rate_alpha = n / (4 * max(sum((f @ t) ** 2 for f in F) for t in TEXT))
    velocity, after, losses = 0, {}, [loss()]
    for iteration in range(1, 61):
        by_w, by_alpha = slopes(loss, [w, alpha])
        velocity = 0.9 * velocity + by_w
        w -= rate_w * velocity
        if iteration % 10 == 0:
            alpha -= rate_alpha * by_alpha
            after[iteration] = [softmax(logits(f)) for f in lengths_one(VAL)]
            losses.append(loss())
    assert losses[-1] < 0.5 * losses[0]
    learner = fit("lp-plus-plus", val=tiny(0, 2), iterations=60)
    assert learner.chosen == {"iteration": 60}
    expected = [w[c] + alpha[c] * TEXT[c] for c in range(C)]
    np.testing.assert_allclose(learner.coef_.T, expected, rtol=1e-3, atol=1e-3)
    stopped, score = best(lambda _, iteration: after[iteration], iteration=tuple(after))
    learner = fit("lp-plus-plus", iterations=60)
    assert learner.chosen == stopped and learner.val_score == score
    np.testing.assert_allclose(learner.predict_proba(VAL), after[stopped["iteration"]], atol=1e-3)


@pytest.mark.promise(DEFINED)
@pytest.mark.parametrize("plus", [False, True])
def test_ss_text_is_the_minimum_of_its_objective(plus):
    F, n, scale = lengths_one(TRAIN), len(TRAIN), 2.0
    weights = []
    for c in range(C):
        mine = [f for f, label in zip(F, TRAIN.y, strict=True) if label == c]
        penalty = 1 / len(mine) if plus else 1 / n

        def objective(w, c=c, mine=mine, penalty=penalty):
            return penalty / 2 * sum((w - TEXT[c]) ** 2) - scale / n * sum(f @ w for f in mine)

        weights.append(minimize(objective, np.zeros(D), tol=1e-10).x)
    if plus:
        away = [2 * w - sum(weights) / C for w in weights]
        weights = [w - a / math.sqrt(a @ a) for w, a in zip(weights, away, strict=True)]

    def predict(part):
        cosines = [[f @ w / math.sqrt(w @ w) for w in weights] for f in lengths_one(part)]
        return [softmax([scale * s for s in row]) for row in cosines]

    check(fit("ss-text", scale=scale, plus=plus), predict)


@pytest.mark.promise(RULE)
@pytest.mark.parametrize(
    ("name", "chosen"),
    {
        "nearest-prototype": {"scale": 8.0},
        "k-nn": {"k": 5},
        "tip-adapter": {"alpha": 1.0, "beta": 5.5},
        "tip-adapter-f": {"alpha": 1.0, "beta": 5.5, "epoch": 20},
        "clip-adapter": {"ratio": 0.2, "epoch": 50},
        "lp-plus-plus": {"iteration": 300},
        "ss-text": {},
    }.items(),
)
def test_without_a_validation_part_the_middle_of_each_grid_is_used(name, chosen):
    learner = fit(name, val=tiny(0, 2))
    assert learner.chosen == chosen and learner.val_score is None
    assert np.isfinite(learner.predict_proba(TEST)).all()


@pytest.mark.promise(RULE)
@pytest.mark.parametrize("grid", [[], [2.0, 1.0], [1.0, 1.0], [0.0], list(range(1, 9))])
def test_a_grid_of_none_of_more_than_seven_or_in_no_order_is_refused(grid, tmp_path):
    with pytest.raises(ConfigError, match=r"learners\.tip-adapter\.beta"):
        find_learner("tip-adapter", {"beta": grid}, tmp_path)
