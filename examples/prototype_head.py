"""A new head in one file: nearest class mean (Snell et al. 2017, Prototypical networks).

    python examples/prototype_head.py brain

Its rows appear beside the others' in cache/<dataset>/runs.parquet and in the metrics. For a head
that every command knows, name its class in an entry point of group "pipeline.heads".
"""

import sys

import numpy as np

from pipeline.cli.options import context
from pipeline.evaluate import evaluate_dataset
from pipeline.heads import register
from pipeline.heads.base import accuracy, l2_normalise, softmax
from pipeline.train import train_dataset


@register("prototype")
class Prototype:
    """Class probabilities from the cosine to each class's mean embedding."""

    needs_labels, parameters, chosen, val_score = True, (), {}, None

    @classmethod
    def from_params(cls, params, *, seed):
        return cls()

    @classmethod
    def from_saved(cls, tensors, config):
        head = cls()
        head.means = tensors["means"]
        return head

    def fit(self, X, y, *, T, X_val, y_val):
        x = l2_normalise(X)
        self.means = l2_normalise(np.stack([x[y == c].mean(axis=0) for c in range(len(T))]))
        self.val_score = accuracy(self.predict_proba(X_val), y_val) if len(X_val) else None
        return self

    def predict_proba(self, X):
        return softmax(20 * l2_normalise(X) @ self.means.T)

    def to_tensors(self):
        return {"means": self.means}

    def to_config(self):
        return {}


if __name__ == "__main__":
    c = context(settings=["train.heads=[zero-shot, linear-probe, prototype]"])
    train_dataset(sys.argv[1], c.params, c.paths, jobs=1)
    evaluate_dataset(sys.argv[1], c.params, c.paths)
