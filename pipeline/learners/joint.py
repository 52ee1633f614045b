"""Joint views: the features of several stored views side by side, as the features of one view.

A run on `whole+crop` sees x = [b_1 x_1, b_2 x_2], float32 (n, 2 d), of the stored views `whole` and
`crop`: the crop adds the detail and the whole image keeps the context. Nothing is encoded again.

b_i = w_i / (mean norm of x_i over the training images): no view counts for more than another only
because its features are longer. The weight w_i is 1 for the first view; for all others it is one of
`block_weights` of the learner. If there are several, each is fitted, and that one is kept which has
the highest accuracy on the validation part, then the lowest log loss there, then the first place in
the list; without a validation part it is the first. So `[1.0]`, the default, chooses nothing.

The class prompts are repeated, one T for each view, so that what compares images with texts works
as before: cos(x, T) is then the mean of the cosines of the views, weighted by b_i |x_i|. Where no
image is trained on (zero-shot) the features of each view have length 1 instead. The pooled views,
whose features are of another length than T, are for learners that need no texts; their T is zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.config import parts_of
from pipeline.learners.base import Learner, Samples
from pipeline.learners.tuned import judge


def block_scales(train: Samples, weight: float = 1.0) -> np.ndarray:
    """Return b of each stored view of the samples' joint view, float32 (k,).

    All are 0 where there is no training image: each image then has the scale of its own features.
    """
    parts = parts_of(train.view)
    if not len(train):
        return np.zeros(len(parts), np.float32)
    norms = [np.linalg.norm(train.features[name], axis=1).mean() for name in parts]
    weights = np.array([1.0, *[weight] * (len(parts) - 1)])
    return (weights / np.maximum(norms, 1e-12)).astype(np.float32)


def join(samples: Samples, scales: np.ndarray, weight: float = 1.0) -> Samples:
    """Return samples with the features (n, k d) of their joint view, texts (C, k d) and
    weights (k d,) to match."""
    blocks = []
    for name, scale in zip(parts_of(samples.view), scales, strict=True):
        x = np.asarray(samples.features[name], dtype=np.float32)
        if scale == 0:
            scale = 1 / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
        blocks.append(x * scale)
    widths, text = [block.shape[1] for block in blocks], samples.text
    texts = [text if w == text.shape[1] else np.zeros((len(text), w), text.dtype) for w in widths]
    return replace(
        samples,
        features={**samples.features, samples.view: np.concatenate(blocks, axis=1)},
        text=np.concatenate(texts, axis=1),
        weights=np.repeat([1.0, *[weight] * (len(blocks) - 1)], widths),
    )


def fit_joined(learner: Learner, train: Samples, val: Samples) -> Learner:
    """Fit a learner on the view of the samples; return it, or another one of its parameters if
    validation chose among weights. For a joint view its attribute `blocks_` has the scales."""
    if not is_joined(learner, train):
        learner.fit(train, val)
        return learner
    weights = learner.params.block_weights if len(val) else learner.params.block_weights[:1]
    best, chosen = (-np.inf, -np.inf), learner
    for weight in weights:
        # Arrays of the fit that a learner starts from are of a single weight.
        one = learner if len(weights) == 1 else type(learner)(learner.params, seed=learner.seed)
        scales = block_scales(train, weight)
        one.fit(join(train, scales, weight), join(val, scales, weight))
        one.blocks_ = scales
        if len(weights) > 1:
            one.chosen["block_weight"] = weight
            rank = judge(predict_joined(one, replace(val, y=val.y[:0])), val.y)
            if rank > best:
                best, chosen = rank, one
    return chosen


def predict_joined(learner: Learner, samples: Samples) -> np.ndarray:
    """Return the class probabilities (n, C) of a learner that `fit_joined` has fitted, for samples
    with the stored features of its view."""
    joined = is_joined(learner, samples)
    return learner.predict_proba(join(samples, learner.blocks_) if joined else samples)


def is_joined(learner: Learner, samples: Samples) -> bool:
    """Return whether the features of the samples' view are still to be joined for a learner."""
    return learner.joins and len(parts_of(samples.view)) > 1
