"""Fits, and the files that keep them: cache/<dataset>/runs/<learner>/*.safetensors.

`fitted.safetensors` holds every fit of a learner with its predictions. While `train` works, fits
that are finished lie in `partial-<digest>.safetensors` of the same format. A fit is identified by
its digest and never changed, so whatever a killed process leaves is the union of these files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.io import atomic_write
from pipeline.learners.runs import train_command

if TYPE_CHECKING:
    from pipeline.learners.base import Learner
    from pipeline.paths import Paths

FORMAT = 1


@dataclass
class Fit:
    """One fit: its row of runs.parquet, its predictions, and the fitted arrays.

    Attributes:
        protocol, learner, view, fraction, seed: the run.
        n_train, n_val, n_test: number of images.
        fit_digest: digest of all that decides the fitted learner.
        digest: digest of all that decides the predictions too.
        status: "ok", "failed" or "diverged"; `error` says why.
        chosen: what the validation part decided, JSON.
        val_score: accuracy on the validation part, if any.
        proba: predictions, float32 (n_test, C); None if the fit failed.
        tensors: the fitted arrays.
    """

    protocol: str
    learner: str
    view: str
    fraction: float
    seed: int
    n_train: int
    n_val: int
    n_test: int
    fit_digest: str
    digest: str
    status: str = "ok"
    error: str = ""
    chosen: str = "{}"
    val_score: float | None = None
    proba: np.ndarray | None = None
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """The run, in the order that tables are sorted by."""
        return self.protocol, self.learner, self.view, self.fraction, self.seed


_FACTS = [f.name for f in fields(Fit) if f.name not in ("proba", "tensors")]


def encode_fits(fits: Sequence[Fit], about: dict[str, Any]) -> bytes:
    """Return successful fits in the safetensors format.

    Args:
        fits: a tensor's key is `<number of the fit>/<name>`; without a name, the predictions.
        about: what all fits share (JSON): parameters, classes, identity of the features.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    for number, fit in enumerate(fits):
        for name, array in {"": fit.proba, **fit.tensors}.items():
            arrays[f"{number}/{name}"] = np.ascontiguousarray(array)
    facts = [{name: getattr(fit, name) for name in _FACTS} for fit in fits]
    header = json.dumps({"format": FORMAT, **about, "fits": facts}, sort_keys=True)
    return save(arrays, metadata={"pipeline": header})


def _write(path: Path, fits: Sequence[Fit], about: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(encode_fits(fits, about))


def write_partial(folder: Path, fits: Sequence[Fit], about: dict[str, Any]) -> None:
    """Save finished fits until `write_fitted`; failed ones are not kept."""
    good = [fit for fit in fits if fit.status == "ok"]
    if good:
        name = hashlib.sha256("".join(fit.digest for fit in good).encode()).hexdigest()
        _write(folder / f"partial-{name[:16]}.safetensors", good, about)


def write_fitted(folder: Path, fits: Sequence[Fit], about: dict[str, Any]) -> None:
    """Write all successful fits of a learner to one file, and remove the partial ones."""
    good = sorted((fit for fit in fits if fit.status == "ok"), key=lambda fit: fit.key)
    _write(folder / "fitted.safetensors", good, about)
    for path in folder.glob("partial-*.safetensors"):
        path.unlink(missing_ok=True)


def read_fits(folder: Path) -> Iterator[Fit]:
    """Yield the fits of all files of a run folder; unreadable files are left out."""
    from safetensors import SafetensorError

    for path in sorted(folder.glob("*.safetensors")):
        try:
            yield from _read(path)[1]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue


def _read(path: Path) -> tuple[dict[str, Any], list[Fit]]:
    """Return what all fits of a file share, and the fits."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["pipeline"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']!r} is not {FORMAT}")
        names: dict[str, list[str]] = {}
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            number, _, name = key.partition("/")
            names.setdefault(number, []).append(name)
        found = []
        for number, facts in enumerate(about.pop("fits")):
            arrays = {n: file.get_tensor(f"{number}/{n}") for n in names[str(number)]}
            found.append(Fit(**facts, proba=arrays.pop(""), tensors=arrays))
    return about, found


@dataclass(frozen=True)
class Fitted:
    """The fitted learners of one run, one for each seed.

    Attributes:
        learners: in the order of `seeds`.
        seeds: ascending.
        fraction: share of the training labels that they were fitted on.
        classes: class names, in the order of the columns of `predict_proba`.
        features: identity of the feature store that they were fitted on.
    """

    learners: list[Learner]
    seeds: list[int]
    fraction: float
    classes: list[str]
    features: dict[str, Any]


def load_fitted(
    paths: Paths,
    dataset: str,
    learner: str,
    *,
    view: str,
    protocol: str = "official",
    fraction: float | None = None,
) -> Fitted:
    """Load the fitted learners of a run.

    Args:
        paths: of the project.
        dataset: its name.
        learner: its name.
        view, protocol: the run.
        fraction: share of the training labels; None: the largest one there is.

    Raises:
        PipelineError: nothing was fitted for this run; the message lists what there is.
    """
    from safetensors import SafetensorError

    from pipeline.learners.registry import get_learner

    path, again = (
        paths.run(dataset, learner) / "fitted.safetensors",
        train_command(dataset, learner),
    )
    if not path.is_file():
        trained = sorted(file.parent.name for file in path.parent.parent.glob(f"*/{path.name}"))
        remedy = f"run: {again}" + (f"; trained are {', '.join(trained)}" if trained else "")
        raise PipelineError(f"learner {learner!r} is not trained", path=path, remedy=remedy)
    try:
        about, fits = _read(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"damaged: {error}", path=path, remedy=f"run: {again}") from None
    mine = [fit for fit in fits if (fit.protocol, fit.view) == (protocol, view)]
    if fraction is None and mine:
        fraction = max(fit.fraction for fit in mine)
    chosen = [fit for fit in mine if fit.fraction == fraction]
    if not chosen:
        there = {f"{fit.protocol}/{fit.view}/{fit.fraction:g}" for fit in fits}
        raise PipelineError(
            f"learner {learner} was not fitted on {protocol}/{view}/{fraction or '...'}",
            path=path,
            remedy=f"choose one of {', '.join(sorted(there)) or 'none'}",
        )
    file = about["params"].get("file")
    cls = get_learner(learner, paths.root / file if file else None)
    params = cls.Parameters.model_validate(about["params"])
    learners = [
        cls(params, seed=fit.seed).restore(fit.tensors, json.loads(fit.chosen)) for fit in chosen
    ]
    seeds = [fit.seed for fit in chosen]
    return Fitted(learners, seeds, fraction, about["classes"], about["features"])
