"""Learners by name: built in, from an installed package, or from a file of one's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from pipeline.config import LEARNERS, Params, problem_text
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.learners.base import Learner, LearnerParams

GROUP = "pipeline.learners"
_registered: dict[str, type[Learner]] = {}
C = TypeVar("C", bound=type)


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a learner known as `name`, e.g. in section `learners` of params.yaml.

    A later registration of the same name replaces the earlier one.
    """

    def add(cls: C) -> C:
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def learner_names() -> list[str]:
    """Return the names of all known learners, sorted."""
    installed = {point.name for point in entry_points(group=GROUP)}
    return sorted(installed | {*LEARNERS, *_registered})


def get_learner(name: str, file: Path | None = None) -> type[Learner]:
    """Return the class of a learner; `file` is a Python file that registers it, loaded first.

    Raises:
        ConfigError: no learner has this name, or the file is missing.
    """
    if file is not None:
        load_file(file)
    if name not in _registered:
        for point in entry_points(group=GROUP, name=name):
            register(name)(point.load())
        if name in LEARNERS:
            importlib.import_module(f"pipeline.learners.{name.replace('-', '_')}")
    if name not in _registered:
        raise ConfigError(
            f"learners: there is no learner {name!r}",
            path=file,
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
    """Return the class and the parameters of a learner; its `file` is relative to `root`.

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

    Raises:
        ConfigError: the class is in no file (of a notebook, say).
    """
    from pipeline.learners import fitting

    bases = [base for one in (cls, *cls.uses) for base in one.__mro__]
    modules = {base.__module__ for base in bases} | {fitting.__name__}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    if files[cls.__module__] is None:
        raise ConfigError(
            f"the source of learner {cls.name!r} is in no file, so no change of it is seen",
            remedy=f"put it into a file and name that in learners.{cls.name}.file",
        )
    digest = hashlib.sha256()
    for name in sorted(modules):
        if files[name] is not None:  # as of built-in classes
            digest.update(Path(files[name]).read_bytes())
    return digest.hexdigest()
