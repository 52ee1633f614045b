"""Learners by name: built in, registered by a script or a file, or from an installed package."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from pipeline.config import Params, problem_text
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.learners.base import Learner, LearnerParams

GROUP = "pipeline.learners"
_BUILT_IN = ("linear_probe", "medfocus", "medfocus_probe", "zero_shot")
_registered: dict[str, type[Learner]] = {}
C = TypeVar("C", bound=type)


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a learner known as `name`, e.g. in section `learners` of params.yaml.

    A later registration of the same name replaces the earlier one, so that a notebook cell can
    be run again.
    """

    def add(cls: C) -> C:
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def learner_names() -> list[str]:
    """Return the names of all known learners, sorted."""
    installed = {point.name for point in entry_points(group=GROUP)}
    built_in = {module.replace("_", "-") for module in _BUILT_IN}
    return sorted(installed | built_in | set(_registered))


def get_learner(name: str, file: Path | None = None) -> type[Learner]:
    """Return the class of a learner.

    Args:
        name: its name.
        file: a Python file that registers it; it is loaded first.

    Raises:
        ConfigError: no learner has this name, or the file is missing.
    """
    if file is not None:
        load_file(file)
    if name not in _registered:
        for point in entry_points(group=GROUP):
            if point.name == name:
                register(name)(point.load())
        if name.replace("-", "_") in _BUILT_IN:
            importlib.import_module(f"pipeline.learners.{name.replace('-', '_')}")
    if name not in _registered:
        where = f" in {file}" if file else ""
        raise ConfigError(
            f"learners: there is no learner {name!r}{where}",
            remedy=f"use one of {', '.join(learner_names())}, or name your own file in "
            f"learners.{name}.file of params.yaml (docs/guides/add_a_learner.md)",
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
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def learner_params(params: Params, name: str, root: Path) -> tuple[type[Learner], LearnerParams]:
    """Return the class and the parameters of a learner of params.yaml.

    Args:
        params: all parameters.
        name: a key of section `learners`, or the name of a registered learner.
        root: the project folder; `file` is relative to it.

    Raises:
        ConfigError: there is no such learner, or a parameter is not allowed; every problem is
            listed with its dotted key.
    """
    section = params.learners.get(name, {})
    file = section.get("file")
    cls = get_learner(name, root / str(file) if file else None)
    try:
        return cls, cls.Parameters.model_validate(section)
    except ValidationError as error:
        problems = problem_text(error, f"learners.{name}")
        raise ConfigError(problems, remedy="correct these keys of params.yaml or --set") from None


def code_digest(cls: type[Learner]) -> str:
    """Return a digest of the source code that decides a fit of this learner.

    It covers how every fit is done, and the modules of the class, of its bases and of the
    learners that it `uses`. Other modules that these import are not covered.
    """
    from pipeline.learners import fitting

    classes = {base for one in (cls, *cls.uses) for base in one.__mro__}
    outside = sys.stdlib_module_names | {"numpy", "sklearn", "torch"}  # covered by their versions
    names = {
        base.__module__ for base in classes if base.__module__.partition(".")[0] not in outside
    }
    digest = hashlib.sha256()
    for name in sorted(names | {fitting.__name__}):
        with suppress(AttributeError, KeyError, OSError, TypeError):
            digest.update(Path(sys.modules[name].__file__).read_bytes())
    if not cls.__module__.startswith("pipeline."):
        try:  # a class in a notebook is in no file
            digest.update(inspect.getsource(cls).encode())
        except (OSError, TypeError):  # in an interactive session there is no source to read
            digest.update(repr(cls).encode())
    return digest.hexdigest()
