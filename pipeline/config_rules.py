"""Rules of params.yaml that more than one value keeps, and how a wrong one is told;
pipeline/config.py says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field
from pydantic.functional_validators import AfterValidator

from pipeline.errors import ConfigError

DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""What a dataset may be called: its name becomes that of files, and a word of DVC's commands."""


def _each_once(value: tuple) -> tuple:
    if len(set(value)) != len(value):
        raise ValueError("must hold each value once")
    return value


def _rising(value: tuple[float, ...]) -> tuple[float, ...]:
    told = [round(f, 4) for f in value]  # how predictions and reports tell them apart
    if not value or any(not 1e-4 <= f <= 1 for f in value) or told != sorted(set(told)):
        raise ValueError("must rise within 0.0001 to 1, also when rounded to 4 decimals")
    return value


EachOnce = AfterValidator(_each_once)
Name = Annotated[str, Field(pattern=f"^{DATASET_NAME}$")]
Seed = Annotated[int, Field(ge=0, le=2**15 - 1)]  # int16 in predictions.parquet
Fractions = Annotated[tuple[float, ...], AfterValidator(_rising)]


def check_rises(section: str, **bounds: float) -> None:
    """Raise ValueError when the two `bounds`, lower and upper, are the other way round."""
    (lower, low), (upper, high) = bounds.items()
    if low > high:
        raise ValueError(f"{section}.{lower}: {low:g} is more than {section}.{upper}, {high:g}")


def check_known(section: str, kind: str, name: str, known: Sequence[str]) -> None:
    """Raise ValueError when `name` is not one of the known names of its kind."""
    known = list(dict.fromkeys(known))
    if name not in known:
        raise ValueError(f"{section}: there is no {kind} {name!r} (known: {', '.join(known)})")


def check_train_views(
    views: Mapping[str, Sequence[str]], encoded: Sequence[str], built_in: Sequence[str]
) -> None:
    """Raise ValueError when a view of `train.views` is neither encoded nor built in.

    That it is encoded is asked by `train` alone, of the store: `--set encode.views=[whole]` is
    meant for one command.
    """
    known = dict.fromkeys([*encoded, *built_in])
    for protocol, names in views.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"train.views.{protocol}: there is no view {', '.join(map(repr, unknown))} "
                f"(known: {', '.join(known)})"
            )


def replace_dotted(raw: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
    """Set a key such as "train.lambda" of nested tables, in place.

    Raises:
        ConfigError: what is above the key is no table.
    """
    *parents, leaf = dotted.split(".")
    table = raw
    for at, key in enumerate(parents, start=1):
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            above = ".".join(parents[:at])
            raise ConfigError(
                f"{dotted}: {above} is no table, so nothing can be set below it",
                path=path,
                remedy=f"mend the key, or set {above} as a whole",
            )
    table[leaf] = value


def problem_text(problem: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> str:
    """Return one of pydantic's findings in words: the dotted key, and what is wrong with it.

    Args:
        problem: an item of `ValidationError.errors()`.
        model: the class that was validated.
        prefix: dotted key of the section that `model` describes; "" = all of params.yaml.
    """
    dotted = ".".join([*filter(None, [prefix]), *map(str, problem["loc"])]) or "params"
    if problem["type"] != "extra_forbidden":
        return f"{dotted}: {problem['msg']}"
    names = [f"{prefix}.{name}" if prefix else name for name in _dotted_names(model)]
    alike = get_close_matches(dotted, names, n=1)
    hint = f" (did you mean {alike[0]}?)" if alike else ""
    return f"{dotted}: there is no such parameter{hint}"


def _dotted_names(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += [f"{name}.{below}" for below in _dotted_names(field.annotation)]
    return names
