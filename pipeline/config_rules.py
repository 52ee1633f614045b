"""Rules of params.yaml that more than one value keeps; pipeline/config.py says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from pydantic.functional_validators import AfterValidator

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
DatasetName = Annotated[str, Field(pattern=f"^{DATASET_NAME}$")]
Seed = Annotated[int, Field(ge=0, le=2**15 - 1)]  # int16 in predictions.parquet
Fractions = Annotated[tuple[float, ...], AfterValidator(_rising)]


def check_rises(section: str, **bounds: float) -> None:
    """Raise ValueError when the two `bounds`, lower and upper, are the other way round."""
    (lower, low), (upper, high) = bounds.items()
    if low > high:
        raise ValueError(f"{section}.{lower}: {low:g} is more than {section}.{upper}, {high:g}")


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
