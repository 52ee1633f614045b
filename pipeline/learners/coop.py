"""CoOp: a learnt context in place of the words of the prompts (Zhou et al. 2022)."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from pipeline.config import parts_of
from pipeline.learners.base import (
    Samples,
    accuracy,
    check_finite,
    in_content_order,
    l2_normalise,
    register,
    softmax,
)
from pipeline.learners.fine_tuned import FineTuned, FineTunedParams
from pipeline.learners.prompts import TextTower


class ContextParams(FineTunedParams):
    """A learnt context, and its training."""

    scale: float = Field(100.0, gt=0)
    """Inverse temperature of the logits, as of CLIP."""
    tokens: int = Field(4, ge=1)
    """Number M of context vectors; the paper has 4 and 16."""
    class_position: Literal["end", "middle"] = "end"
    """Where the words of the class stand: after all vectors, or after half of them."""
    init: str | None = None
    """Words such as "a photo of a" whose embeddings the vectors start from, one a token, instead of
    `tokens` random ones."""
    learning_rate: float = Field(0.005, gt=0)
    """Learning rate of AdamW, which falls to zero along a cosine."""


class CoOpParams(ContextParams):
    """CoOp."""

    class_specific: bool = False
    """Whether each class has context vectors of its own; else all share them."""
    batch_size: int = Field(512, ge=1)
    """Images in one step; a smaller last batch is used too."""


@register("coop")
class CoOp(FineTuned):
    """softmax(scale * cos(I, g(V_1 ... V_M words))): T of a prompt whose context is learnt.

    Zhou et al. 2022 (CoOp, IJCV 130; arXiv 2109.01134), section 3.2, equations 2 to 4. g is the
    text encoder, frozen; the M vectors V, in its space of token embeddings, are trained with
    cross-entropy. They are unified or of each class, and the words of the class in prompts.yaml
    stand at the end or in the middle, followed by a full stop as in the authors' code.

    Images are those of the store, so a step costs one pass of the C prompts through g, however many
    images it has. Hence what differs from the authors' code: large batches and few steps instead
    of 32 images and up to 200 epochs; AdamW instead of SGD, and so no warm-up (the length of its
    first step does not depend on the gradient); images are not augmented; vectors start as random
    as the token embeddings of g are (0.02 in CLIP); the epoch is chosen on the validation part.

    In a joint view the prompt is repeated for each view, as of zero-shot. Prediction needs no g.
    The order of images and classes changes no bit of the fit (see `in_content_order`).
    """

    Parameters = CoOpParams
    needs = frozenset({"prompts"})

    def fit(self, train: Samples, val: Samples) -> Self:
        """Train the context; keep that of the epoch that validation chooses.

        Raises:
            DivergedError: a feature or the loss is not finite.
            ModelError: the text tower cannot be loaded, or a prompt is too long for it.
        """
        train, val, order = in_content_order(train, val)
        check_finite("a feature of the training or validation part", train.X, val.X)
        tower, parts = train.prompts.tower(), [(self.images(p), p.y) for p in (train, val)]
        rng = Generator().manual_seed(self.seed)
        own = self.params.class_specific
        context = first_context(self.params, tower, len(order) if own else 1, rng)
        prompts = tower.prompts(train.prompts.words, *sides(self.params, context.shape[1]))

        def text() -> Tensor:
            return tower.encode(*prompts, context.expand(len(order), -1, -1))

        def logits(images: Tensor) -> Tensor:
            return self.params.scale * images @ text().T

        self.chosen["epoch"] = self.minimise([context], logits, *parts, rng)
        with torch.no_grad():
            now = np.argsort(order)
            self.text_ = text().numpy()[now]
            self.context_ = context.detach().numpy()[now if own else slice(None)]
        self.val_score = accuracy(self.predict_proba(val), order[val.y]) if len(val) else None
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(np.float32(self.params.scale) * (self.images(samples) @ self.text_.T))

    def images(self, samples: Samples) -> np.ndarray:
        """Return features f, float32 (n, d), whose product with T of length 1 is the cosine of the
        image and T; of a joint view, (n, k d), of the image and T repeated k times."""
        views = len(parts_of(samples.view))
        x = l2_normalise(samples.X).reshape(len(samples), views, samples.X.shape[1] // views)
        return x.sum(axis=1) / np.float32(views**0.5)


def first_context(params: ContextParams, tower: TextTower, n: int, rng: Generator) -> Tensor:
    """Return n times M context vectors before training, (n, M, width), as a leaf."""
    if params.init is None:
        drawn = torch.randn((n, params.tokens, tower.width), generator=rng)
        return (drawn * tower.std).requires_grad_()
    return tower.embed(params.init).expand(n, -1, -1).clone().requires_grad_()


def sides(params: ContextParams, vectors: int) -> tuple[int, int]:
    """Return how many of the vectors stand before and after the words of the class."""
    before = vectors if params.class_position == "end" else vectors // 2
    return before, vectors - before
