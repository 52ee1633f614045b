"""CLIP-micro's text projection: ridge regression from class names to classifier rows, no images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import timm
import torch
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from pipeline.io import atomic_write
from pipeline.models.checkpoint import lite0_state, minilm_folder
from pipeline.models.clip import PROJECTION, build_clip, clip_config

TEMPLATES = ("a photo of a {}.", "{}", "an image of {}")
RIDGE = 0.3
HELD_OUT = 200


def class_names() -> list[str]:
    """Return the 1,000 ImageNet class names, with synonyms, in the classifier's order."""
    info = ImageNetInfo()
    return [info.index_to_description(i) for i in range(info.num_classes())]


def classifier_rows() -> torch.Tensor:
    """Return the classifier's rows, centred and of length 1: float64 (1000, 1280)."""
    names = list(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())
    rows = list(lite0_state(names).values())[-2].double()
    rows = rows - rows.mean(0)
    return rows / rows.norm(dim=1, keepdim=True)


@torch.inference_mode()
def text_embeddings(texts: list[str]) -> torch.Tensor:
    """Return MiniLM's mean-pooled embeddings through open_clip's text tower: float64 (n, 384)."""
    model: CustomTextCLIP = build_clip(clip_config("clip-micro")).eval()
    model.text.proj = torch.nn.Identity()
    tokenizer = HFTokenizer(str(minilm_folder()), context_length=64)
    parts = [model.text(tokenizer(texts[i : i + 100])) for i in range(0, len(texts), 100)]
    return torch.cat(parts).double()


def ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return W of shape (d_y, d_x) that minimises |x W' - y|^2 + RIDGE * scale * |W|^2.

    The scale is the mean squared length of x per dimension times n, so that the strength does
    not depend on how many samples there are or in which unit they come.
    """
    scale = x.shape[0] * x.pow(2).sum(1).mean() / x.shape[1]
    gram = x.T @ x + RIDGE * scale * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ y).T


def retrieval(embeddings: list[torch.Tensor], rows: torch.Tensor) -> dict[str, float]:
    """Measure retrieval on unseen classes: fit 800, rank the rows for the text of each other class;
    five times, with other classes.

    Args:
        embeddings: (1000, 384) per template; the first one is the query.
        rows: (1000, 1280).

    Returns:
        top1 and top5 (shares of 200 texts), chance is 1/200 and 5/200.
    """
    ranks = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(rows))
        fit, test = order[HELD_OUT:], order[:HELD_OUT]
        x = torch.cat([e[fit] for e in embeddings])
        weight = ridge(x, torch.cat([rows[fit]] * len(embeddings)))
        scores = embeddings[0][test] @ weight.T @ rows[test].T
        ranks.append((scores > scores.diag()[:, None]).sum(1))
    all_ranks = torch.cat(ranks)
    return {
        "top1": float((all_ranks < 1).double().mean()),
        "top5": float((all_ranks < 5).double().mean()),
    }


def training_pairs() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the class names' embeddings, (1000, 384) a template, and the classifier's rows."""
    names = class_names()
    return [text_embeddings([t.format(n) for n in names]) for t in TEMPLATES], classifier_rows()


def make_clip(out: Path) -> None:
    """Fit the projection on all 1,000 classes and write it in half precision.

    Args:
        out: a .safetensors file, replaced atomically.
    """
    embeddings, rows = training_pairs()
    weight = ridge(torch.cat(embeddings), torch.cat([rows] * len(TEMPLATES)))
    state = {
        PROJECTION: weight.half().contiguous(),
        "logit_scale": torch.tensor(math.log(1 / 0.07)),
    }
    with atomic_write(out) as partial:
        about = {"templates": " | ".join(TEMPLATES), "ridge": str(RIDGE)}
        save_file(state, partial, metadata=about)
