"""params.yaml, parsed once into frozen typed objects. Functions take these, never dictionaries.

Every field is documented where it is declared and has the default that params.yaml spells out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.models.spec import ModelSpec

View = str
Protocol = Literal["official", "grouped", "ground_truth", "grouped_truth"]
CROSS_VALIDATED: tuple[Protocol, ...] = ("grouped", "grouped_truth")  # each seed tests a fold


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileParams(Section):
    """A pair of models: `sam2` for segment, `clip` for encode."""

    sam2: ModelSpec
    clip: ModelSpec


class AuditParams(Section):
    """The leak audit: which pairs of images count as copies."""

    min_correlation: float = Field(0.995, ge=0.9, le=1)
    min_structure: float = Field(0.88, ge=0.8, le=1)
    mirrored: bool = True
    max_failed: float = Field(0.0, ge=0, le=1)


class SegmentParams(Section):
    """Stage 1, m = SAM2(x)."""

    prompt: str = "salient-refine"
    box_as_mask: bool = True
    zoom: float = Field(2.0, ge=0)
    grid: int = Field(8, ge=1)
    center_box: float = Field(0.7, gt=0, le=1)
    min_area: float = Field(0.002, ge=0, lt=1)
    max_area: float = Field(0.95, gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_failed: float = Field(0.0, ge=0, le=1)


class PromptQualityParams(Section):
    """Every prompt strategy judged against ground truth, on a sample of each dataset."""

    images: int = Field(200, ge=0)
    phantoms: int = Field(6, ge=0)
    strategies: tuple[str, ...] = (
        "salient",
        "salient-refine",
        "auto",
        "center-box",
        "box",
        "points",
    )
    box_jitter: float = Field(0.1, ge=0, le=0.5)
    seed: int = 0
    max_failed: float = Field(0.0, ge=0, le=1)

    @field_validator("strategies")
    @classmethod
    def _strategies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("must name at least one prompt strategy, each once")
        return value


class EncodeParams(Section):
    """Stage 2, I = E_v(x * m) and T = E_t(t)."""

    geometry: Literal["pad", "squash", "crop"] = "pad"
    views: tuple[View, ...] = ("whole", "masked", "crop", "binary", "oracle", "random")
    fill: Literal["black", "mean", "blur"] = "black"
    crop_margin: float = Field(0.1, ge=0)
    tokens: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    max_failed: float = Field(0.0, ge=0, le=1)


class SplitsParams(Section):
    """Who trains, who chooses, who is tested."""

    fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    val: float = Field(0.2, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    folds: int = Field(5, ge=2)
    seed: int = 0
    on_leak: Literal["warn", "drop-test", "drop-train", "regroup"] = "warn"

    @field_validator("fractions")
    @classmethod
    def _fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < f <= 1 for f in value) or list(value) != sorted(set(value)):
            raise ValueError("must rise from above 0 to at most 1, e.g. [0.05, 0.1, 0.2, 0.5, 1.0]")
        return value


class TrainParams(Section):
    """The heads. `views` says which views each protocol is run on."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    heads: tuple[str, ...] = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
    views: dict[Protocol, tuple[View, ...]] = {
        "official": ("whole", "masked", "crop", "binary"),
        "grouped": ("whole", "masked", "crop", "binary"),
        "ground_truth": ("whole", "masked", "oracle", "random"),
        "grouped_truth": ("whole", "masked", "oracle", "random"),
    }
    lambda_: float = Field(0.5, ge=0, le=1, alias="lambda")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    epochs: int = Field(100, ge=1)
    patience: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1)
    c_min: float = Field(1e-4, gt=0)
    c_max: float = Field(1e2, gt=0)
    c_steps: int = Field(7, ge=1)
    probe_max_iter: int = Field(300, ge=1)
    attention_dim: int = Field(64, ge=1)
    temperature: float = Field(0.07, gt=0)
    zero_shot_scale: float = Field(100.0, gt=0)


class EvaluateParams(Section):
    bootstrap: int = Field(1000, ge=10)
    confidence: float = Field(0.95, gt=0, lt=1)
    bins: int = Field(15, ge=2)
    seed: int = 0


class ReportParams(Section):
    gallery: int = Field(24, ge=1)
    thumbnail: int = Field(160, ge=32)
    heatmaps: int = Field(4, ge=0)


class Params(Section):
    """All of params.yaml."""

    datasets: tuple[str, ...]
    data_root: str = "data"
    profile: str
    profiles: dict[str, ProfileParams]
    audit: AuditParams = AuditParams()
    segment: SegmentParams = SegmentParams()
    prompt_quality: PromptQualityParams = PromptQualityParams()
    encode: EncodeParams = EncodeParams()
    splits: SplitsParams = SplitsParams()
    train: TrainParams = TrainParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _profile_exists(self) -> Params:
        if self.profile not in self.profiles:
            names = ", ".join(sorted(self.profiles))
            raise ValueError(f"profile: {self.profile!r} is not one of the profiles ({names})")
        return self

    @property
    def models(self) -> ProfileParams:
        """The models of the chosen profile."""
        return self.profiles[self.profile]


def load_params(
    path: str | Path = "params.yaml", overrides: dict[str, Any] | None = None
) -> Params:
    """Read params.yaml.

    Args:
        path: the file.
        overrides: dotted keys and values that replace the file's for this run,
            e.g. `{"segment.prompt": "auto"}`.

    Raises:
        ConfigError: the file is missing, is not YAML, a key of `overrides` leads into what is no
            table, or a value is not allowed; every problem is listed with its dotted key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "no such file", path=path, remedy="run from the project folder, or pass --params"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", path=path, remedy="mend the file") from None
    if not isinstance(raw, dict):
        raise ConfigError("holds no table of parameters", path=path, remedy="restore it from git")
    for dotted, value in (overrides or {}).items():
        _replace(raw, dotted, value, path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(problems, path=path, remedy="mend these keys") from None


def _replace(raw: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
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
