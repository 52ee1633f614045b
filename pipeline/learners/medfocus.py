"""MedFocusCLIP (paper, section III): M = F(T, I), y = C(M), L = lambda L_c + (1 - lambda) L_e.

The whole method in one file: the fusion F and the classifier C, the loss, training, prediction,
and the evaluation by a linear probe.

The paper leaves F open. By default the image embedding is the query of one attention step, and ALL
class prompts are its keys and values, whatever the label of the image: its own class's prompt
alone would leak the label. The result is added to the image embedding through a gate that starts
at zero, so that M = I before training and text enters only where it helps. `fusion` names other
forms of F with the same two properties.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as nnf
from pydantic import Field
from torch import Generator, Tensor, nn

from pipeline.config import parts_of
from pipeline.learners.base import (
    DivergedError,
    Learner,
    LearnerParams,
    Samples,
    accuracy,
    check_finite,
    in_content_order,
    l2_normalise,
    register,
    softmax,
    standardisation,
)
from pipeline.learners.linear_probe import LinearProbe, LinearProbeParams


class MedFocusParams(LearnerParams):
    """MedFocusCLIP."""

    lambda_: float = Field(0.5, ge=0, le=1, alias="lambda")
    """Weight of the contrastive loss: L = lambda * L_c + (1 - lambda) * L_e."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW; not applied to gate, temperature and bias."""
    epochs: int = Field(100, ge=1)
    """Largest number of epochs; without a validation part all of them are run."""
    patience: int = Field(10, ge=1)
    """Epochs without a lower validation loss after which training stops."""
    batch_size: int = Field(128, ge=1)
    """Images in one step; a smaller last batch is used too."""
    attention_dim: int = Field(64, ge=1)
    """Width of queries and keys, and of the bottleneck of the values."""
    temperature: float = Field(0.07, gt=0)
    """Initial value of the learned temperature of L_c (as in CLIP)."""
    fusion: Literal["attention", "gated-sum", "concat-mlp", "bilinear", "token-attention"] = (
        "attention"
    )
    """The form of F; token-attention is for joint views."""


class Fusion(nn.Module):
    """F(T, I) = I + tanh(g) f(I, T): the base of all forms of f.

    `fuse` reads I (n, d) with rows of length 1, the standardised Z of I (the mean image, which all
    images share, would otherwise dominate), T (C, d) with rows of length 1, and the fixed arrays,
    what the trained parameters come to for these prompts.

    Attributes:
        matrices: the trained matrices with their rows and columns: d, a (`attention_dim`), e = 2 d,
            f (the length of the first view), t (that times the number of views).
        arrays: the fixed arrays, with the axis along which each has one entry for each class.
    """

    matrices: ClassVar[tuple[tuple[str, str], ...]]
    arrays: ClassVar[tuple[tuple[str, int | None], ...]]

    def __init__(self, widths: Sequence[int], params: MedFocusParams, rng: Generator):
        super().__init__()
        self.widths, d = tuple(widths), sum(widths)
        size = {"d": d, "e": 2 * d, "a": params.attention_dim}
        size |= {"f": widths[0], "t": len(widths) * widths[0]}
        for name, (rows, columns) in self.matrices:
            values = torch.randn(size[rows], size[columns], generator=rng) / size[rows] ** 0.5
            setattr(self, name, nn.Parameter(values))
        self.gate = nn.Parameter(torch.zeros(()))
        self.sharpness = torch.tensor(1 / params.temperature)

    def fixed(self, text: Tensor) -> dict[str, Tensor]:
        """Return the fixed arrays for prompts (C, d): here the matrices, the last one gated."""
        *names, last = (name for name, _ in self.matrices)
        gated = {last: torch.tanh(self.gate) * getattr(self, last), "sharpness": self.sharpness}
        return {name: getattr(self, name) for name in names} | gated

    @staticmethod
    def fuse(I: Tensor, Z: Tensor, T: Tensor, fixed: dict[str, Tensor]) -> Tensor:  # noqa: E741
        """Return M (n, d)."""
        raise NotImplementedError


class Attention(Fusion):
    """f = sum_c a_c v_c, a = softmax_c(Z Q (T_c K)^T / sqrt(a)), v_c = T_c V O: one step of
    scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) over the class prompts."""

    matrices = (("query", "da"), ("key", "da"), ("value_in", "da"), ("value_out", "ad"))
    arrays = (("attention", 1), ("values", 0))

    def fixed(self, text: Tensor) -> dict[str, Tensor]:
        """Return query and key projections and all keys in one matrix, and the gated values."""
        keys = text @ self.key
        attention = self.query @ keys.T / keys.shape[1] ** 0.5
        values = torch.tanh(self.gate) * (text @ self.value_in @ self.value_out)
        return {"attention": attention, "values": values}

    @staticmethod
    def fuse(I: Tensor, Z: Tensor, T: Tensor, fixed: dict[str, Tensor]) -> Tensor:  # noqa: E741
        a = torch.softmax(Z @ fixed["attention"], dim=1)
        return I + a @ fixed["values"]


class TokenAttention(Attention):
    """Attention over all pairs of a view i of a joint view and a class prompt c:
    f = sum_ic a_ic v_ic, a = softmax_ic(Z_i Q_i (T_c K)^T / sqrt(a)), v_ic = T_c V_i O.

    I and M are the views side by side. Q_i projects each view on its own, so that features of any
    length (inside, outside, trunk) can take part; the first view is compared with T as it is. With
    one view this is `Attention`.
    """

    matrices = (("query", "da"), ("key", "fa"), ("value_in", "ta"), ("value_out", "ad"))

    def fixed(self, text: Tensor) -> dict[str, Tensor]:
        """Return the arrays of `Attention` with one column and one row for each pair."""
        text = nnf.normalize(text[:, : self.widths[0]], dim=1)
        keys = text @ self.key / self.key.shape[1] ** 0.5
        attention = torch.block_diag(*(q @ keys.T for q in self.query.split(self.widths)))
        parts = self.value_in.split(self.widths[0])
        values = torch.cat([text @ part for part in parts]) @ self.value_out
        return {"attention": attention, "values": torch.tanh(self.gate) * values}


def matched(I: Tensor, T: Tensor, sharpness: Tensor) -> Tensor:  # noqa: E741
    """Return t = sum_c softmax_c(cos(I, T_c) / temperature) T_c, (n, d): the text of each image as
    zero-shot classification sees it, whatever its label. The temperature is the initial one."""
    return torch.softmax(sharpness * (I @ T.T), dim=1) @ T


class GatedSum(Fusion):
    """f = sigmoid(Z A B) * (t - I), t of `matched`: a gate for each feature between image and text
    (gated multimodal unit, Arevalo et al. 2017, section 3.1)."""

    matrices = (("gate_in", "da"), ("gate_out", "ad"))
    arrays = (("gate_in", None), ("gate_out", None), ("strength", None), ("sharpness", None))

    def fixed(self, text: Tensor) -> dict[str, Tensor]:
        """Return the matrices, and tanh(g), since g is outside the sigmoid."""
        own = {"gate_in": self.gate_in, "gate_out": self.gate_out, "sharpness": self.sharpness}
        return own | {"strength": torch.tanh(self.gate)}

    @staticmethod
    def fuse(I: Tensor, Z: Tensor, T: Tensor, fixed: dict[str, Tensor]) -> Tensor:  # noqa: E741
        gate = fixed["strength"] * torch.sigmoid(Z @ fixed["gate_in"] @ fixed["gate_out"])
        return I + gate * (matched(I, T, fixed["sharpness"]) - I)


class ConcatMlp(Fusion):
    """f = relu([Z / sqrt(d), t] W) V, t of `matched`: a perceptron on image and text side by side;
    Z / sqrt(d) has about the length of t."""

    matrices = (("hidden", "ea"), ("output", "ad"))
    arrays = (("hidden", None), ("output", None), ("sharpness", None))

    @staticmethod
    def fuse(I: Tensor, Z: Tensor, T: Tensor, fixed: dict[str, Tensor]) -> Tensor:  # noqa: E741
        both = torch.cat([Z / Z.shape[1] ** 0.5, matched(I, T, fixed["sharpness"])], dim=1)
        return I + torch.relu(both @ fixed["hidden"]) @ fixed["output"]


class Bilinear(Fusion):
    """f = (Z U * t V) P, t of `matched`: low-rank bilinear pooling (Kim et al. 2017, section 3)."""

    matrices = (("image", "da"), ("prompt", "da"), ("output", "ad"))
    arrays = (("image", None), ("prompt", None), ("output", None), ("sharpness", None))

    @staticmethod
    def fuse(I: Tensor, Z: Tensor, T: Tensor, fixed: dict[str, Tensor]) -> Tensor:  # noqa: E741
        t = matched(I, T, fixed["sharpness"])
        return I + (Z @ fixed["image"] * (t @ fixed["prompt"])) @ fixed["output"]


FUSIONS: dict[str, type[Fusion]] = {
    "attention": Attention,
    "gated-sum": GatedSum,
    "concat-mlp": ConcatMlp,
    "bilinear": Bilinear,
    "token-attention": TokenAttention,
}


@dataclass(frozen=True)
class Fused:
    """F and C for fixed class prompts; used alike in training and in prediction.

    Attributes:
        mean, scale: of I over the training part, (d,).
        text: T with rows of length 1, (C, d).
        weight, bias: of C, (d, C) and (C,).
        inverse_temperature: of the contrastive logits, ().
        fusion, fixed: the form of F and its fixed arrays.
    """

    mean: Tensor
    scale: Tensor
    text: Tensor
    weight: Tensor
    bias: Tensor
    inverse_temperature: Tensor
    fusion: type[Fusion]
    fixed: dict[str, Tensor]

    def fuse(self, I: Tensor) -> Tensor:  # noqa: E741 - the paper's name
        """Return M = F(T, I), (n, d); rows of I (n, d) have length 1."""
        return self.fusion.fuse(I, (I - self.mean) / self.scale, self.text, self.fixed)

    def of_classes(self, order: np.ndarray) -> Self:
        """Return F and C with the classes in another order, int64 (C,)."""
        fixed = dict(self.fixed)
        for name, axis in self.fusion.arrays:
            if axis is not None:  # of several views: all classes of the first, then of the next
                k = fixed[name].shape[axis] // len(order)
                every = np.concatenate([order + i * len(order) for i in range(k)])
                fixed[name] = fixed[name][:, every] if axis else fixed[name][every]
        own = {"text": self.text[order], "bias": self.bias[order], "weight": self.weight[:, order]}
        return replace(self, **own, fixed=fixed)

    def classify(self, M: Tensor) -> Tensor:
        """Return the class logits C(M), (n, C)."""
        return (M - self.mean) / self.scale @ self.weight + self.bias

    def similarity(self, M: Tensor) -> Tensor:
        """Return the contrastive logits cos(M, T) / temperature, (n, C)."""
        return self.inverse_temperature * (nnf.normalize(M, dim=1) @ self.text.T)

    def arrays(self) -> dict[str, Tensor]:
        """Return all arrays by name."""
        return {name: getattr(self, name) for name in _ARRAYS} | self.fixed


_ARRAYS = [field.name for field in fields(Fused)][:-2]


class Network(nn.Module):
    """The trained parameters of F and C; `text`, `mean` and `scale` as of `Fused`; `widths` are the
    lengths of the views that a joint view has side by side, [d] for another one."""

    def __init__(
        self,
        text: Tensor,
        mean: Tensor,
        scale: Tensor,
        params: MedFocusParams,
        rng: Generator,
        widths: Sequence[int] = (),
    ):
        super().__init__()
        n_classes, d = text.shape
        self.text, self.mean, self.scale = text, mean, scale
        self.fusion = FUSIONS[params.fusion](widths or (d,), params, rng)
        # C starts at zero, so that no order of the classes is preferred.
        self.weight = nn.Parameter(torch.zeros(d, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.log_inverse_temperature = nn.Parameter(-torch.tensor(params.temperature).log())

    def fused(self) -> Fused:
        """Return F and C with the prompts put in; gradients flow through it."""
        inverse = self.log_inverse_temperature.exp().clamp(max=100)  # as in CLIP
        own = self.mean, self.scale, self.text, self.weight, self.bias, inverse
        return Fused(*own, type(self.fusion), self.fusion.fixed(self.text))


def contrastive_loss(similarity: Tensor, y: Tensor) -> Tensor:
    """L_c of the contrastive logits (n, C) and classes (n,): the symmetric contrastive loss.

    CLIP's loss pairs each image with one text. Here C prompts face n images: an image has one
    positive text, and a text has all images of its class as positives (as in SupCon, Khosla et
    al. 2020). A text without an image in the batch has no positive and is left out of the text
    side; it remains a negative for every image. The mean of both sides is returned, a scalar.
    """
    image_to_text = nnf.cross_entropy(similarity, y)
    log_share = torch.log_softmax(similarity, dim=0)
    positives = nnf.one_hot(y, similarity.shape[1]).to(similarity.dtype)
    count = positives.sum(dim=0)
    present = count > 0
    per_text = -(log_share * positives).sum(dim=0)[present] / count[present]
    # log(number of positives) is the smallest value of a text's loss; without subtracting it the
    # weight of the two sides would depend on the batch size.
    text_to_image = (per_text - torch.log(count[present])).mean()
    return (image_to_text + text_to_image) / 2


def medfocus_loss(fused: Fused, M: Tensor, y: Tensor, lambda_: float) -> Tensor:
    """L = lambda * L_c + (1 - lambda) * L_e, with L_e the cross-entropy of C(M).

    At lambda = 0 and 1 the other term is not computed, so that it cannot bring in a NaN.
    """
    if lambda_ == 0:
        return nnf.cross_entropy(fused.classify(M), y)
    contrastive = contrastive_loss(fused.similarity(M), y)
    if lambda_ == 1:
        return contrastive
    return lambda_ * contrastive + (1 - lambda_) * nnf.cross_entropy(fused.classify(M), y)


@register("medfocus")
class MedFocus(Learner):
    """F, by default attention over all class prompts, gated residual; linear classifier; early
    stopping.

    Prediction is the softmax of C(M). At lambda = 1 the loss does not train C, so there
    prediction is the softmax of the contrastive logits. `seed` decides the initial weights and
    the order of the images; on one thread the same data and seed give the same bits, whatever
    images and classes are called.

    The fitted arrays are those of `Fused`, and `order_`, the order of the classes in which F and C
    are computed (see `in_content_order`).
    """

    Parameters = MedFocusParams
    not_counted = Learner.not_counted | {"mean_", "scale_", "order_"}

    def fit(self, train: Samples, val: Samples) -> Self:
        """Minimise L over the training part; keep the epoch with the lowest validation loss.

        Raises:
            DivergedError: a feature or the loss is infinite or NaN.
        """
        self.fit_fusion(train, val)
        self.val_score = accuracy(self.predict_proba(val), val.y) if len(val) else None
        return self

    def fit_fusion(self, train: Samples, val: Samples) -> None:
        """Set the fitted arrays and `chosen`."""
        check_finite("a feature of the training or validation part", train.X, val.X, train.text)
        train, val, self.order_ = in_content_order(train, val)
        image = l2_normalise(train.X)
        standard = standardisation(image, train.weights)
        mean, scale = (torch.from_numpy(a.astype(np.float32)) for a in standard)
        rng = Generator().manual_seed(self.seed)
        text = torch.from_numpy(l2_normalise(train.text))
        parts = parts_of(train.view)
        widths = [train.features[one].shape[1] for one in parts] if parts[1:] else ()
        network = Network(text, mean, scale, self.params, rng, widths)
        parts = image, train.y, l2_normalise(val.X), val.y
        epoch = _train(network, self.params, rng, parts)
        with torch.no_grad():
            fused = network.fused().of_classes(np.argsort(self.order_))
        for name, array in fused.arrays().items():
            setattr(self, f"{name}_", array.detach().numpy().copy())
        self.chosen = {"epoch": epoch, "gate": torch.tanh(network.fusion.gate).item()}

    def check_lengths(self, samples: Samples) -> None:
        """Refuse features of another length than T, except where F projects each view."""
        first = samples.features[parts_of(samples.view)[0]].shape[1]
        if self.params.fusion != "token-attention" or first != samples.text.shape[1]:
            super().check_lengths(samples)

    @property
    def fused(self) -> Fused:
        """The fitted F and C, with the classes in the order `order_`."""
        fusion = FUSIONS[self.params.fusion]
        own, fixed = (
            {name: torch.as_tensor(getattr(self, f"{name}_")) for name in names}
            for names in (_ARRAYS, dict(fusion.arrays))
        )
        return Fused(**own, fusion=fusion, fixed=fixed).of_classes(self.order_)

    def fuse(self, X: np.ndarray) -> np.ndarray:
        """Return M = F(T, I), float32 (n, d), for image features X (n, d)."""
        return self.fused.fuse(torch.from_numpy(l2_normalise(X))).numpy()

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C).

        Raises:
            DivergedError: a logit is infinite or NaN.
        """
        fused = self.fused
        M = fused.fuse(torch.from_numpy(l2_normalise(samples.X)))
        logits = fused.similarity(M) if self.params.lambda_ == 1 else fused.classify(M)
        check_finite("a class logit", logits.numpy())
        return softmax(logits.numpy()[:, np.argsort(self.order_)])


class MedFocusProbeParams(MedFocusParams, LinearProbeParams):
    """Parameters of F, as of `medfocus`, and of the logistic regression on M."""


@register("medfocus-probe")
class MedFocusProbe(MedFocus):
    """The paper's evaluation: y' = LogisticRegression(M) on frozen M = F(T, I), in place of C.

    With the parameters of section `learners.medfocus` F is that of the `medfocus` learner.
    """

    Parameters = MedFocusProbeParams
    starts_from = MedFocus

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit F, unless it is there already, then the probe on M."""
        if not self.tensors:
            self.fit_fusion(train, val)
        # In this order before it is fused, since the last bits of a product depend on the row.
        *parts, order = in_content_order(train, val)
        parts = (replace(part, features={part.view: self.fuse(part.X)}) for part in parts)
        probe, now = LinearProbe(self.params, seed=self.seed).fit(*parts), np.argsort(order)
        self.coef_, self.intercept_ = probe.coef_[:, now], probe.intercept_[now]
        self.chosen |= probe.chosen
        self.val_score = probe.val_score
        return self

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C)."""
        return softmax(self.fuse(samples.X) @ self.coef_ + self.intercept_)


def _train(
    network: Network, params: MedFocusParams, rng: Generator, parts: Iterable[np.ndarray]
) -> int:
    """Train the network in place on images and classes of both parts; return the epoch whose
    parameters it is left with."""
    image, y, image_val, y_val = map(torch.from_numpy, parts)
    decayed = [one for one in network.parameters() if one.ndim == 2]
    others = [one for one in network.parameters() if one.ndim < 2]  # gate, bias, temperature
    optimiser = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
        fused=True,
    )

    def loss_of(image: Tensor, y: Tensor) -> Tensor:
        fused = network.fused()
        return medfocus_loss(fused, fused.fuse(image), y, params.lambda_)

    best, best_epoch, best_loss = {}, 0, float("inf")
    for epoch in range(1, params.epochs + 1):
        for rows in torch.randperm(len(y), generator=rng).split(params.batch_size):
            loss = loss_of(image[rows], y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if len(y_val):
            with torch.no_grad():
                loss = loss_of(image_val, y_val)
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} after epoch {epoch}")
        if not len(y_val):
            best_epoch = epoch
        elif loss.item() < best_loss:
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
            best_epoch, best_loss = epoch, loss.item()
        elif epoch - best_epoch >= params.patience:
            break
    if best:
        network.load_state_dict(best)
    return best_epoch
