"""The interface of a learner, learners by name, and the array functions that several use."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from pipeline.config import (
    LEARNERS,
    Fractions,
    Protocol,
    Section,
    Seeds,
    Views,
    parts_of,
    problem_text,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.encode.pixels import Pixels
    from pipeline.learners.prompts import ClassPrompts

_registered: dict[str, type[Learner]] = {}
C = TypeVar("C", bound=type)


class DivergedError(ArithmeticError):
    """The loss or a parameter of a fit became infinite or NaN. Its row in runs.parquet says so."""


@dataclass(frozen=True)
class Samples:
    """Images with their labels, as a learner sees them.

    Attributes:
        view: the view of the run, e.g. "masked".
        features: CLIP image features by view, each float32 (n, d), not normalised: the view of
            the run, and the others that `Learner.views` asks for. Of a joint view see
            `pipeline.learners.joint`.
        y: class numbers, int64 (n,), 0 to C-1. Empty when the samples are to be predicted.
        text: text features T of ALL classes, float32 (C, d), in the order of the class numbers;
            (C, 0) if the encoder has no texts.
        classes: the C class names, in the same order.
        weights: what a joint view has multiplied the features with, beside the scale of each view,
            (d,); 1 for other views. Who standardises features has to keep them.
        prompts: the words of the classes, in the same order, and their text tower, for learners
            that need them; else None.
        pixels: frames of the run's view, uint8 (n, s, s, 3), for learners that need them; else
            None.
    """

    view: str
    features: Mapping[str, np.ndarray]
    y: np.ndarray
    text: np.ndarray
    classes: tuple[str, ...] = ()
    weights: np.ndarray | float = 1.0
    prompts: ClassPrompts | None = None
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def take(self, rows: np.ndarray, *, labelled: bool) -> Self:
        """Return some of the images, with or without their labels."""
        features = {view: X[rows] for view, X in self.features.items()}
        pixels = None if self.pixels is None else self.pixels.take(rows)
        y = self.y[rows] if labelled else self.y[:0]
        return replace(self, features=features, y=y, pixels=pixels)

    @property
    def X(self) -> np.ndarray:
        """The features of the run's own view, float32 (n, d)."""
        return self.features[self.view]


class LearnerParams(Section):
    """Parameters of a learner: its section `learners.<name>` of params.yaml.

    A learner with parameters derives a class from this one. The fields below belong to every
    learner; where they are given, they replace those of `train` and `splits` for this learner.
    """

    model_config = ConfigDict(populate_by_name=True)

    file: str | None = None
    """Python file that registers the learner, relative to params.yaml; None: it is installed."""
    kind: str | None = None
    """Name of the learner, if its section has a name of its own: several sections of one kind."""
    seeds: Seeds | None = None
    """Instead of train.seeds."""
    views: dict[Protocol, Views] | None = None
    """Instead of train.views."""
    fractions: Fractions | None = None
    """Instead of splits.fractions."""
    block_weights: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    """Joint views: candidates for the weight of all views but the first; validation chooses."""

    def deciding(self) -> dict[str, Any]:
        """Return the parameters that decide a single fit, as JSON values."""
        return self.model_dump(mode="json", exclude=set(LearnerParams.model_fields))


class Learner:
    """A classifier in scikit-learn's style, fitted once for each run, fraction and seed.

    A new learner is one file: a class with `fit` and `predict_proba` below `@register("name")`.
    As in scikit-learn, `fit` leaves its result in attributes whose names end with an underscore.
    They must be NumPy arrays: with the parameters they are the saved learner, which predicts.

    Args:
        params: its parameters; None: the defaults.
        seed: decides everything random in the fit.

    Attributes:
        name: its name in params.yaml and in tables; set by `register`.
        Parameters: class of its parameters.
        needs_labels: False for a learner that is not trained (zero-shot). It gets one run per
            test set, at fraction 0, instead of one per fraction and seed.
        joins: whether it can be fitted on joint views such as whole+crop, whose features are joined
            before `fit` sees them. False: these views are refused; or `views` is overridden, and
            the stored views that it names arrive as they are.
        needs_text: False for a learner that never compares features with those of texts, and so can
            be fitted on views whose features are of another length (inside, outside, trunk), and on
            those of an encoder without texts.
        needs: what of `Samples` it needs besides features: "prompts", or "pixels", which are of
            stored views only (`joins` is False).
        starts_from: a learner that `fit` fits first, with the parameters of the same names. If
            `train` finds that fit on disk, its arrays are there already when `fit` is called.
        not_counted: names of fitted arrays that are no parameters estimated from labels: texts,
            stored images, scales of features, orders of classes. The others are `n_parameters`.
        chosen: what the validation part decided in `fit` (JSON values), for the table of runs.
        val_score: accuracy on the validation part, or None; set by `fit`.
    """

    name: ClassVar[str] = ""
    Parameters: ClassVar[type[LearnerParams]] = LearnerParams
    needs_labels: ClassVar[bool] = True
    joins: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    starts_from: ClassVar[type[Learner] | None] = None
    not_counted: ClassVar[frozenset[str]] = frozenset({"text_", "blocks_"})

    def __init__(self, params: LearnerParams | None = None, *, seed: int = 0):
        self.params: Any = params if params is not None else self.Parameters()
        self.seed = seed
        self.chosen: dict[str, Any] = {}
        self.val_score: float | None = None

    def fit(self, train: Samples, val: Samples) -> Self:
        """Fit on the training part; the validation part chooses hyperparameters, nothing else.

        Args:
            train: the training part.
            val: the validation part; may be empty.

        Raises:
            DivergedError: the fit became infinite or NaN.
        """
        raise NotImplementedError

    def predict_proba(self, samples: Samples) -> np.ndarray:
        """Return class probabilities, float32 (n, C); rows sum to 1."""
        raise NotImplementedError

    def views(self, view: str) -> tuple[str, ...]:
        """Return the stored views that a run on `view` reads; default: that view, or its parts.

        Raises:
            ConfigError: the view is a joint one, and this learner cannot join views.
        """
        if not self.joins and len(parts_of(view)) > 1:
            remedy = f"name the views of this learner in learners.{self.name}.views"
            raise ConfigError(f"{self.name} cannot join the views {view}", remedy=remedy)
        return parts_of(view)

    def frame_size(self, of_model: int) -> int:
        """Return the side of the frames that a learner on pixels needs; default: the CLIP's own."""
        return of_model

    def check_lengths(self, samples: Samples) -> None:
        """Refuse features that this learner cannot compare with those of texts, by name.

        Raises:
            ConfigError: `needs_text` is set, and a view has features of another length.
        """
        length = samples.text.shape[1]
        other = [name for name, X in samples.features.items() if X.shape[1] != length]
        if other and self.needs_text:
            message = f"{self.name} compares images with texts, of which the features have length "
            message += f"{length}; those of {', '.join(other)} have another"
            remedy = f"name the views of this learner in learners.{self.name}.views"
            raise ConfigError(message, remedy=remedy)

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The fitted arrays by attribute name; empty before `fit`."""
        return {name: value for name, value in vars(self).items() if name.endswith("_")}

    @classmethod
    def n_parameters(cls, tensors: Mapping[str, np.ndarray]) -> int:
        """Return how many numbers of the fitted arrays were estimated from labels; a single
        hyperparameter chosen on validation is none."""
        counted = (value for name, value in tensors.items() if name not in cls.not_counted)
        return sum(value.size for value in counted if value.size > 1)


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a learner known as `name` in section `learners` of params.yaml."""

    def add(cls: C) -> C:
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def get_learner(name: str, file: Path | None = None) -> type[Learner]:
    """Return the class of a learner; `file` is a Python file that registers it, loaded first.

    Raises:
        ConfigError: no learner has this name, or the file is missing.
    """
    if file is not None:
        load_file(file)
    if name not in _registered:
        for point in entry_points(group="pipeline.learners", name=name):
            register(name)(point.load())
        if name in LEARNERS:
            shared = {"medfocus-probe": "medfocus", "fine-tuned": "backbone"}
            module = shared.get(name, name.replace("-", "_"))
            importlib.import_module(f"pipeline.learners.{module}")
    if name not in _registered:
        raise ConfigError(
            f"learners: there is no learner {name!r}",
            path=file,
            remedy=f"use one of {', '.join(sorted({*LEARNERS, *_registered}))}, or name your own "
            f"file in learners.{name}.file of params.yaml (docs/guides/add_a_learner.md)",
        )
    return _registered[name]


def load_file(file: Path) -> None:
    """Run a Python file that registers learners, once in a process for each content."""
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            "the file of a learner cannot be read", path=file, remedy="correct learners.*.file"
        ) from error
    # By content and path, so that workers find the classes under the same name.
    name = f"learner_file_{file.stem}_{digest[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def find_learner(name: str, section: Mapping, root: Path) -> tuple[type[Learner], LearnerParams]:
    """Return the class and the parameters of a learner from its section of params.yaml; `root` is
    the project folder.

    Raises:
        ConfigError: there is no such learner, or a parameter is not allowed.
    """
    file = section.get("file")
    cls = get_learner(section.get("kind") or name, root / str(file) if file else None)
    try:
        return cls, cls.Parameters.model_validate(section)
    except ValidationError as error:
        problems = problem_text(error, f"learners.{name}")
        raise ConfigError(problems, remedy="correct these keys of params.yaml or --set") from None


def code_digest(cls: type[Learner]) -> str:
    """Return a digest of the source code that decides a fit of this learner.

    It covers how every fit is done, and the modules of the class, of its bases and of the other
    learners that its module imports.

    Raises:
        ConfigError: the class is in no file (of a notebook, say).
    """
    from pipeline.learners import joint, runs

    there = vars(sys.modules.get(cls.__module__, runs)).values()
    used = {cls, *(one for one in there if isinstance(one, type) and issubclass(one, Learner))}
    modules = {base.__module__ for one in used for base in one.__mro__}
    modules |= {runs.__name__, joint.__name__}
    modules |= {f"pipeline.learners.{need}" for need in cls.needs}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    if files[cls.__module__] is None:
        raise ConfigError(
            f"the source of learner {cls.name!r} is in no file, so no change of it is seen",
            remedy=f"put it into a file and name that in learners.{cls.name}.file",
        )
    found = [Path(file) for _, file in sorted(files.items()) if file is not None]
    return hashlib.sha256(b"".join(path.read_bytes() for path in found)).hexdigest()


def in_content_order(train: Samples, val: Samples) -> tuple[Samples, Samples, np.ndarray]:
    """Return both parts with rows and classes in an order that their features alone decide.

    Sums of floats depend on the order of their terms, so that a fit would depend on what images and
    classes are called. Rows are sorted by the bytes of their features, classes by their first row
    of `train`, those without one by their text. A fit of these is the same bits for any names;
    only rows of equal features and several labels keep their order.

    Returns:
        train, val, and the class number before of each class number now, int64 (C,).
    """

    def by_bytes(x: np.ndarray) -> np.ndarray:
        return np.array(sorted(range(len(x)), key=lambda k: x[k].tobytes()), np.int64)

    train, val = (part.take(by_bytes(part.X), labelled=True) for part in (train, val))
    order = np.array(list(dict.fromkeys([*train.y.tolist(), *by_bytes(train.text).tolist()])))
    text, classes = train.text[order], tuple(train.classes[c] for c in order if train.classes)
    prompts = train.prompts and train.prompts.take(order)
    of_classes = {"text": text, "classes": classes, "prompts": prompts}
    now = np.argsort(order)
    train, val = (replace(part, y=now[part.y], **of_classes) for part in (train, val))
    return train, val, order


def l2_normalise(x: np.ndarray) -> np.ndarray:
    """Return float32 (n, d) with rows of length 1; a row of zeros stays zero."""
    x = np.asarray(x, dtype=np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(length, np.float32(1e-12))


def standardisation(
    X: np.ndarray, weights: np.ndarray | float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of each feature over the rows of (n, d), both float64 (d,).

    The scale is the standard deviation, but at least a tenth of the mean standard deviation. A
    feature that hardly varies over a few training images would otherwise be scaled up so much
    that it alone decides a new image in which it differs. `weights` (d,) are those of the samples:
    the scale is that of the features before them, so that standardised features still have them.
    """
    mean = X.mean(axis=0, dtype=np.float64)
    scale = X.std(axis=0, dtype=np.float64) / weights
    return mean, np.maximum(scale, max(0.1 * float(scale.mean()), 1e-12))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float32 probabilities (n, C) of logits (n, C), computed in float64."""
    z = np.asarray(logits, dtype=np.float64)
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return (z / z.sum(axis=1, keepdims=True)).astype(np.float32)


def accuracy(proba: np.ndarray, y: np.ndarray) -> float:
    """Return the share of rows whose most probable class is the true one."""
    return float((proba.argmax(axis=1) == y).mean())


def log_loss(proba: np.ndarray, y: np.ndarray) -> float:
    """Return the mean of -log p of the true class, with p at least 1e-7."""
    p = proba[np.arange(len(y)), y].astype(np.float64)
    return -np.log(np.clip(p, 1e-7, 1.0)).mean()


def check_finite(what: str, *arrays: np.ndarray) -> None:
    """Raise DivergedError if an array holds NaN or infinity."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise DivergedError(f"{what} is not finite")
