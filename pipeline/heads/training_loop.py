"""The gradient descent of the MedFocusCLIP head: AdamW, early stopping on the validation loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pipeline.heads.base import DivergedError
from pipeline.heads.fusion import Fusion, cosines_and_logits
from pipeline.heads.loss import medfocus_loss

if TYPE_CHECKING:
    from pipeline.heads.medfocus import MedFocus


@dataclass(frozen=True)
class Fitted:
    """What training leaves: arrays for prediction, the epoch they are of, the open gate."""

    tensors: dict[str, np.ndarray]
    epoch: int
    gate: float


@dataclass(frozen=True)
class Part:
    """Images of one part as the network reads them, and their classes: I, Z, I T^T, y."""

    image: torch.Tensor
    asked: torch.Tensor
    image_text: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: torch.Tensor) -> Part:
        return Part(self.image[rows], self.asked[rows], self.image_text[rows], self.y[rows])


class Network(nn.Module):
    """F and C with the two logits that the loss needs."""

    def __init__(self, head: MedFocus, generator: torch.Generator):
        super().__init__()
        n_classes, dim = head.text_.shape
        self.register_buffer("text", torch.tensor(head.text_))
        self.register_buffer("mean", torch.tensor(head.mean_))
        self.register_buffer("scale", torch.tensor(head.scale_))
        self.fusion = Fusion(dim, head.attention_dim, generator)
        # Zeros, so that no order of the classes is preferred at the start.
        self.weight = nn.Parameter(torch.zeros(dim, n_classes))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.log_inverse_temperature = nn.Parameter(-torch.tensor(head.temperature).log())

    def inverse_temperature(self) -> torch.Tensor:
        """1 / temperature, at most 100 as in CLIP."""
        return self.log_inverse_temperature.exp().clamp(max=100)

    def prepare(self, image: np.ndarray, y: np.ndarray) -> Part:
        """Compute once what every step needs of a part, float32 (n, d) with rows of length 1."""
        I = torch.tensor(image)  # noqa: E741 - the paper's name
        return Part(I, (I - self.mean) / self.scale, I @ self.text.T, torch.tensor(y))

    def forward(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines of M and T over the temperature, and C(M); both (n, C)."""
        cosines, logits = cosines_and_logits(
            self.fusion,
            self.weight,
            self.bias,
            self.text,
            image=part.image,
            asked=part.asked,
            image_text=part.image_text,
            scale=self.scale,
        )
        return self.inverse_temperature() * cosines, logits


def train_medfocus(
    head: MedFocus, image: np.ndarray, y: np.ndarray, image_val: np.ndarray, y_val: np.ndarray
) -> Fitted:
    """Minimise L over the train part; keep the parameters of the best validation loss.

    Args:
        head: parameters, and the statistics `mean_`, `scale_`, `text_`.
        image: I of the train part, float32 (n, d), rows of length 1.
        y: classes (n,).
        image_val, y_val: the validation part, may be empty.

    Raises:
        DivergedError: the loss became infinite or NaN.
    """
    generator = torch.Generator().manual_seed(head.seed)
    network = Network(head, generator)
    train, val = network.prepare(image, y), network.prepare(image_val, y_val)
    plain = [network.fusion.gate, network.bias, network.log_inverse_temperature]
    decayed = [p for p in network.parameters() if all(p is not q for q in plain)]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": head.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=head.learning_rate,
        fused=True,
    )
    best, best_epoch, best_loss = _copy(network), 0, float("inf")
    for epoch in range(1, head.epochs + 1):
        for rows in torch.randperm(len(train), generator=generator).split(head.batch_size):
            batch = train.take(rows)
            loss = medfocus_loss(*network(batch), batch.y, head.lambda_)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} after epoch {epoch}")
        if len(val):
            with torch.no_grad():
                loss = medfocus_loss(*network(val), val.y, head.lambda_)
            if not torch.isfinite(loss):
                raise DivergedError(f"the validation loss is {loss.item()} after epoch {epoch}")
            if loss.item() < best_loss:
                best, best_epoch, best_loss = _copy(network), epoch, loss.item()
            elif epoch - best_epoch >= head.patience:
                break
        else:
            best, best_epoch = _copy(network), epoch
    network.load_state_dict(best)
    return _fitted(network, best_epoch)


def _copy(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def _fitted(network: Network, epoch: int) -> Fitted:
    attention, values = network.fusion.folded(network.text)
    tensors = {
        "attention": attention,
        "values": values,
        "weight": network.weight,
        "bias": network.bias,
        "inverse_temperature": network.inverse_temperature(),
    }
    arrays = {name: value.numpy().copy() for name, value in tensors.items()}
    return Fitted(arrays, epoch, float(torch.tanh(network.fusion.gate)))
