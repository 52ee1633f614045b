"""Heads by name: the built-in ones, those a script registers, those other packages bring."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import TrainParams
    from pipeline.heads.base import Head

GROUP = "pipeline.heads"
_BUILT_IN = {
    "zero-shot": "pipeline.heads.zero_shot",
    "linear-probe": "pipeline.heads.linear_probe",
    "medfocus": "pipeline.heads.medfocus",
    "medfocus-probe": "pipeline.heads.medfocus_probe",
}
_registered: dict[str, type] = {}
C = TypeVar("C", bound=type)


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a head known as `name`, e.g. in `train.heads` of params.yaml.

    A later registration of the same name replaces the earlier one, so that a notebook cell
    can be run twice.
    """

    def add(cls: C) -> C:
        cls.name = name
        _registered[name] = cls
        return cls

    return add


def head_names() -> list[str]:
    """Return the names of all known heads, sorted."""
    found = {point.name for point in entry_points(group=GROUP)}
    return sorted(found | set(_BUILT_IN) | set(_registered))


def get_head(name: str) -> type[Head]:
    """Return the class of a head.

    Raises:
        ConfigError: no head has this name.
    """
    if name not in _registered:
        for point in entry_points(group=GROUP):
            if point.name == name:
                register(name)(point.load())
        if name in _BUILT_IN:
            importlib.import_module(_BUILT_IN[name])
    if name not in _registered:
        raise ConfigError(
            f"train.heads: there is no head {name!r}",
            remedy=f"use one of {', '.join(head_names())}, or register your own "
            f"(pipeline.heads.register, or an entry point of group {GROUP!r})",
        )
    return _registered[name]


def make_head(name: str, params: TrainParams, *, seed: int) -> Head:
    """Return an unfitted head with the parameters of section `train`."""
    return get_head(name).from_params(params, seed=seed)
