"""A new head in one file: nearest class mean (Snell et al. 2017, Prototypical networks).

    python examples/prototype_head.py brain

Its rows stand beside those of the heads of params.yaml in cache/<dataset>/metrics.parquet. For a
head that every command knows, name its class in an entry point of group "pipeline.heads".
"""

import sys

import numpy as np

from pipeline.cli.options import context
from pipeline.evaluate import evaluate_dataset
from pipeline.learners import register
from pipeline.learners.base import l2_normalise, softmax
from pipeline.learners.train import train_dataset
from pipeline.learners.zero_shot import ZeroShot


@register("prototype")
class Prototype(ZeroShot):
    """The zero-shot head, with the mean of each class's images in place of its prompts."""

    needs_labels = True

    def fit(self, X, y, *, T, X_val, y_val):
        images = l2_normalise(X)
        return super().fit(T=np.stack([images[y == c].sum(axis=0) for c in range(len(T))]))

    def predict_proba(self, X):
        there = self.text_.any(axis=1)  # not so for a class without an image: its probability is 0
        return softmax(np.where(there, self.scale * l2_normalise(X) @ self.text_.T, -np.inf))


if __name__ == "__main__":
    c = context(train__heads=[*context().params.train.heads, "prototype"])
    train_dataset(sys.argv[1], c.params, c.paths, jobs=1)
    evaluate_dataset(sys.argv[1], c.params, c.paths)
