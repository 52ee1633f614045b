"""An adapter on disk: PART.safetensors has what was trained, PART.json what it was trained on.

The JSON is written last and states the SHA-256 of the tensors, so an adapter is whole or not there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from pipeline.adapt.methods import insert, trained
from pipeline.errors import ModelError
from pipeline.io import atomic_write, atomic_write_json, sha256_file
from pipeline.models import Sam2ImagePredictor
from pipeline.models.checkpoint import Checkpoint
from pipeline.store.items import canonical, identity_diff


def write_adapter(
    path: Path, predictor: Sam2ImagePredictor, base: dict[str, torch.Tensor], about: dict[str, Any]
) -> None:
    """Write the trained parameters that differ from those of `base` (by name) to `path`, and
    `about`, with their SHA-256 and bytes, beside it. Raises DiskError."""
    changed = {
        name: value.detach().cpu().contiguous()
        for name, value in trained(predictor.model).items()
        if name not in base or not torch.equal(value.cpu(), base[name])
    }
    with atomic_write(path) as partial:
        partial.write_bytes(save(changed))
    facts = {"sha256": sha256_file(path), "bytes": path.stat().st_size, "tensors": len(changed)}
    atomic_write_json(path.with_suffix(".json"), about | facts)


def read_about(path: Path) -> dict[str, Any] | None:
    """Return the JSON of an adapter; None where there is none, or where its tensors are others."""
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
        return about if about["sha256"] == sha256_file(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_adapter(path: Path, predictor: Sam2ImagePredictor, dataset: str) -> Sam2ImagePredictor:
    """Give a freshly loaded SAM2 an adapter, in place; return its predictor.

    Its fingerprint, and so the identity of its masks, holds the SHA-256 of the adapter, the part of
    the split that it must not see, and the ids of the images that it has seen.

    Raises:
        ModelError: the file is missing or damaged, of another base, or of another dataset.
    """
    again = f"run: pipeline adapt --dataset {dataset}"
    about = read_about(path)
    if about is None:
        message = "the adapter is missing, or damaged, or its JSON is of other weights"
        raise ModelError(message, path=path, remedy=again)
    if about["dataset"] != dataset:
        message = f"the adapter is one of dataset {about['dataset']}, not of {dataset}"
        raise ModelError(message, path=path, remedy=again)
    if other := identity_diff(about["base"], canonical(predictor.fingerprint)):
        message = f"the adapter is of another base model: {'; '.join(other)[:300]}"
        raise ModelError(message, path=path, remedy="set the profile back, or " + again)
    model, method = predictor.model, about["params"]["method"]
    finish = insert(model, method, about["params"]["rank"])
    wanted, advice = trained(model), f"the adapter fits no SAM2; {again}"
    state = Checkpoint(path, advice).read()
    lacking = set() if method == "full" else set(wanted) - set(state)
    odd = [n for n, t in state.items() if n not in wanted or wanted[n].shape != t.shape]
    if odd or lacking:
        names = ", ".join(sorted([*odd, *lacking])[:3])
        raise ModelError(f"lacks or has other tensors: {names}", path=path, remedy=advice)
    with torch.no_grad():
        for name, value in state.items():
            wanted[name].copy_(value)
    finish()
    model.requires_grad_(False)
    predictor.fingerprint = adapted_fingerprint(predictor.fingerprint, about)
    return predictor


def adapted_fingerprint(base: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Return the fingerprint of a SAM2 with an adapter, from that of its base and the JSON."""
    names = ("sha256", "dataset", "variant", "part", "images")
    return base | {"adapter": {name: about[name] for name in names}}


KNOWN = ("fingerprint", "precision", "device", "mask_threshold")
"""What the identity of a store of masks needs of a predictor."""


class LatePredictor:
    """A SAM2 with an adapter that is loaded once more than `KNOWN` is asked of it: where all masks
    are stored, never.

    Args:
        path, dataset: of the adapter, as of `load_adapter`.
        known: the values of `KNOWN` of its base.
        load: returns a fresh base.
    """

    def __init__(self, path: Path, known: dict[str, Any], dataset: str, load: Callable[[], Any]):
        own = {"fingerprint": adapted_fingerprint(known["fingerprint"], read_about(path))}
        vars(self).update(known | own)
        self._load, self._lock = lambda: load_adapter(path, load(), dataset), threading.Lock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:  # many threads ask at the same time
            if "_loaded" not in vars(self):
                self._loaded = self._load()
        return getattr(self._loaded, name)
