"""A learner in one file: the nearest class mean (Snell et al. 2017, Prototypical Networks)."""

import numpy as np
from pydantic import Field

from pipeline.learners import Learner, LearnerParams, register
from pipeline.learners.base import l2_normalise, softmax


class PrototypeParams(LearnerParams):
    """Section `learners.prototype` of params.yaml."""

    scale: float = Field(100.0, gt=0)
    """Inverse temperature in softmax(scale * cosine)."""


@register("prototype")
class Prototype(Learner):
    """Probabilities by the cosine of an image with the mean image of each class."""

    Parameters = PrototypeParams

    def fit(self, train, val):
        images, classes = l2_normalise(train.X), range(len(train.text))
        self.means_ = l2_normalise(np.stack([images[train.y == c].sum(axis=0) for c in classes]))
        return self

    def predict_proba(self, samples):
        cosine = l2_normalise(samples.X) @ self.means_.T
        trained = self.means_.any(axis=1)  # False for a class without training images
        return softmax(np.where(trained, self.params.scale * cosine, -np.inf))
