"""params.yaml, parsed once into frozen typed objects. Functions take these, never dictionaries.

The text below each field describes it; params.yaml spells out the same defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.errors import ConfigError

LEARNERS = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
"""The built-in learners."""
DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""Pattern of names of datasets and learners, which become names of files and of DVC stages."""


def _each_once(value: tuple) -> tuple:
    if len(set(value)) != len(value):
        raise ValueError("must hold each value once")
    return value


def _rising(value: tuple[float, ...]) -> tuple[float, ...]:
    rounded = [round(f, 4) for f in value]  # predictions and reports tell fractions apart by these
    if not value or any(not 1e-4 <= f <= 1 for f in value) or rounded != sorted(set(rounded)):
        raise ValueError("must rise within 0.0001 to 1, also when rounded to 4 decimals")
    return value


def _empty_sections(value: Any) -> Any:
    """Turn sections without any parameter, which YAML reads as None, into empty ones."""
    if isinstance(value, dict):
        return {name: {} if section is None else section for name, section in value.items()}
    return value


EachOnce = AfterValidator(_each_once)
Name = Annotated[str, Field(pattern=f"^{DATASET_NAME}$")]
Seed = Annotated[int, Field(ge=0, le=2**15 - 1)]  # int16 in predictions.parquet
Seeds = Annotated[tuple[Seed, ...], EachOnce]
Fractions = Annotated[tuple[float, ...], AfterValidator(_rising)]
View = str
Views = Annotated[tuple[View, ...], EachOnce]
Protocol = Literal["official", "grouped", "ground_truth", "grouped_truth"]
CROSS_VALIDATED: tuple[Protocol, ...] = ("grouped", "grouped_truth")  # each seed tests a fold


class Section(BaseModel):
    """A part of params.yaml: cannot be changed once read, and knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSpec(BaseModel):
    """A model to load.

    Args:
        name: name of a configuration: "sam2-micro", "sam2.1_hiera_large", "clip-micro", or one of
            open_clip, such as "ViT-B-16".
        checkpoint: a local path, "package" (weights shipped with the embedded models),
            "hf-hub:org/name", or an open_clip pretrained tag.
        sha256: checked if given; the actual hash is recorded in any case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


class ProfileParams(Section):
    """A pair of models: `sam2` for segment, `clip` for encode."""

    sam2: ModelSpec
    clip: ModelSpec


class AuditParams(Section):
    """The leak audit: which pairs of images count as copies."""

    min_correlation: float = Field(0.995, ge=0.9, le=1)
    """Of two 32 x 32 grey thumbnails, above which the images are copies."""
    min_structure: float = Field(0.88, ge=0.8, le=1)
    """Of the 64 x 64 local structure, above which they are copies too."""
    mirrored: bool = True
    """Whether mirrored and turned copies are looked for too."""
    max_failed: float = Field(0.0, ge=0, le=1)
    """Share of images that may fail before the stage fails."""


class SegmentParams(Section):
    """Stage 1, m = SAM2(x)."""

    prompt: str = "salient-refine"
    """What SAM2 is asked: a name of pipeline.segment.strategies.STRATEGIES."""
    box_as_mask: bool = True
    """Whether a box also enters as SAM2's low-resolution mask prompt."""
    zoom: float = Field(2.0, ge=0)
    """A box is segmented on a crop of so many times its size; 0 = on the whole image."""
    grid: int = Field(8, ge=1)
    """auto: clicks along a side."""
    center_box: float = Field(0.7, gt=0, le=1)
    """center-box: share of each side."""
    min_area: float = Field(0.002, ge=0, lt=1)
    """A mask of a smaller share of the image counts as empty."""
    max_area: float = Field(0.95, gt=0, le=1)
    """A mask of a larger share of the image counts as full-frame."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the model; auto: bf16 on cuda, else fp32."""
    max_failed: float = Field(0.0, ge=0, le=1)
    """Share of images that may fail before the stage fails."""

    @model_validator(mode="after")
    def _range_of_areas(self) -> SegmentParams:
        if self.min_area > self.max_area:
            raise ValueError(
                f"min_area: {self.min_area:g} is more than max_area, {self.max_area:g}"
            )
        return self


class PromptQualityParams(Section):
    """Every prompt strategy judged against ground truth, on a sample of each dataset."""

    images: int = Field(200, ge=0)
    """Of a dataset, its test part first; 0 = all that have a mask."""
    phantoms: int = Field(6, ge=0)
    """Images of a synthetic dataset."""
    strategies: Annotated[tuple[str, ...], Field(min_length=1), EachOnce] = (
        "salient",
        "salient-refine",
        "auto",
        "center-box",
        "box",
        "points",
    )
    """The prompt strategies that are judged."""
    box_jitter: float = Field(0.1, ge=0, le=0.5)
    """box: each edge of the true box is moved by up to this share of its side."""
    seed: int = 0
    """Of the sample and the jitter."""
    max_failed: float = Field(0.0, ge=0, le=1)
    """Share of images that may fail before the stage fails."""


class EncodeParams(Section):
    """Stage 2, I = E_v(x * m) and T = E_t(t)."""

    geometry: Literal["pad", "squash", "crop"] = "pad"
    """How an image becomes square: pad, squash, or crop (the model's own preprocessing)."""
    views: Annotated[Views, Field(min_length=1)] = (
        "whole",
        "masked",
        "crop",
        "binary",
        "oracle",
        "random",
    )
    """What CLIP is shown of each image: names of pipeline.encode.views."""
    fill: Literal["black", "mean", "blur"] = "black"
    """What lies outside the mask."""
    crop_margin: float = Field(0.1, ge=0)
    """Margin of the crop view, as a share of the mask's box."""
    tokens: bool = False
    """Whether patch-token features are kept as well."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the model; auto: bf16 on cuda, else fp32."""
    max_failed: float = Field(0.0, ge=0, le=1)
    """Share of images that may fail before the stage fails."""


class SplitsParams(Section):
    """Which images train, which choose hyperparameters, which are tested."""

    fractions: Fractions = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Few-shot shares of the training labels, nested, in whole patients and groups."""
    val: float = Field(0.2, gt=0, lt=1)
    """Share of the drawn labels that is the validation part."""
    test: float = Field(0.2, gt=0, lt=1)
    """Share of the images in the test part, if the manifest gives none."""
    folds: int = Field(5, ge=2)
    """Number of folds in cross-validation; seed s tests fold s modulo folds."""
    seed: int = 0
    """Seed of parts that the manifest leaves open and, with each of train.seeds, of the draws."""
    on_leak: Literal["warn", "drop-test", "drop-train", "regroup"] = "warn"
    """What is done about copies and groups in both train and test."""


class TrainParams(Section):
    """What every learner is trained on."""

    seeds: Seeds = (0, 1, 2, 3, 4)
    """One fit of each learner, view and fraction for each; a seed draws the shots and the initial
    weights."""
    views: dict[Protocol, Views] = {
        "official": ("whole", "masked", "crop", "binary"),
        "grouped": ("whole", "masked", "crop", "binary"),
        "ground_truth": ("whole", "masked", "oracle", "random"),
        "grouped_truth": ("whole", "masked", "oracle", "random"),
    }
    """The views that each protocol is run on."""


class ComparedRun(Section):
    """A learner trained on the features of a view."""

    learner: str
    """A name of a learner."""
    view: str
    """A name of a view."""

    @property
    def key(self) -> tuple[str, str]:
        """The learner and the view, to look up rows of tables."""
        return self.learner, self.view


class NamedRun(ComparedRun):
    """A run with the name that readers of the report see."""

    name: str = Field(min_length=1)
    """Label of the run in tables and figures."""


class StudyParams(Section):
    """The runs that the study compares; the only place that names them."""

    baseline: ComparedRun = ComparedRun(learner="linear-probe", view="whole")
    """Every other run is compared with this one."""
    runs: Annotated[tuple[NamedRun, ...], Field(min_length=1)] = (
        NamedRun(name="Whole image", learner="linear-probe", view="whole"),
        NamedRun(name="Masked image", learner="linear-probe", view="masked"),
        NamedRun(name="MedFocusCLIP", learner="medfocus-probe", view="masked"),
    )
    """The runs of the report, in this order; the baseline is the first."""

    @model_validator(mode="after")
    def _runs_differ(self) -> StudyParams:
        if self.runs[0].key != self.baseline.key:
            raise ValueError("the first of runs must be the baseline (same learner and view)")
        for what, values in (
            ("name", [r.name for r in self.runs]),
            ("run", [r.key for r in self.runs]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"runs: each {what} may occur only once")
        return self


class EvaluateParams(Section):
    """Intervals and calibration."""

    bootstrap: int = Field(1000, ge=10)
    """Resamples of the test images, by patient, group and copies where there are any."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of every interval."""
    bins: int = Field(15, ge=2)
    """Of the reliability diagram and of ECE."""
    seed: int = 0
    """Of the resamples."""


class ReportParams(Section):
    """What the report shows."""

    gallery: int = Field(24, ge=1)
    """Overlays of each dataset."""
    thumbnail: int = Field(160, ge=32)
    """Longer side of a picture in the page, pixels."""


class Params(Section):
    """All of params.yaml."""

    datasets: Annotated[tuple[Name, ...], EachOnce]
    """Those that `dvc repro` and commands without --dataset work on."""
    data_root: str = "data"
    """Folder of the images, relative to the project; data_root/<dataset> may be a link."""
    profile: str
    """Which of `profiles` is used."""
    profiles: dict[str, ProfileParams]
    """Pairs of models by name."""
    audit: AuditParams = AuditParams()
    segment: SegmentParams = SegmentParams()
    prompt_quality: PromptQualityParams = PromptQualityParams()
    encode: EncodeParams = EncodeParams()
    splits: SplitsParams = SplitsParams()
    train: TrainParams = TrainParams()
    learners: Annotated[dict[Name, dict[str, Any]], BeforeValidator(_empty_sections)] = {
        name: {} for name in LEARNERS
    }
    """The parameters of each learner by its name, in the order that results list them. A learner
    checks its own, see `pipeline.learners.LearnerParams`."""
    study: StudyParams = StudyParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _profile_exists(self) -> Params:
        if self.profile not in self.profiles:
            names = ", ".join(sorted(self.profiles))
            raise ValueError(f"profile: {self.profile!r} is not one of the profiles ({names})")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Params:
        # Whether a view is encoded, `train` asks the store: `--set encode.views=[whole]` is meant
        # for one command.
        views = (*self.encode.views, *EncodeParams.model_fields["views"].default)
        for protocol, names in self.train.views.items():
            for name in names:
                _check_known(f"train.views.{protocol}", "view", name, views)
        for run in (self.study.baseline, *self.study.runs):
            _check_known("study", "learner", run.learner, (*self.learners, *LEARNERS))
            _check_known("study", "view", run.view, views)
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
        ConfigError: the file is missing, is not YAML in UTF-8, a key of `overrides` leads into
            what is no table, or a value is not allowed; every problem is listed with its dotted
            key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "no such file", path=path, remedy="run from the project folder, or pass --params"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not valid YAML: {error}", path=path, remedy="correct the file"
        ) from None
    if not isinstance(raw, dict):
        raise ConfigError("holds no table of parameters", path=path, remedy="restore it from git")
    for dotted, value in (overrides or {}).items():
        _replace(raw, dotted, value, path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(problem_text(problem, Params) for problem in error.errors())
        given = f", or what a flag or --set gave: {', '.join(overrides)}" if overrides else ""
        raise ConfigError(problems, path=path, remedy=f"correct these keys{given}") from None


def _check_known(where: str, kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        names = ", ".join(dict.fromkeys(known))
        raise ValueError(f"{where}: there is no {kind} {name!r} (known: {names})")


def _replace(raw: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
    """Set a key such as "train.seeds" of nested tables, in place.

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
                remedy=f"correct the key, or set {above} as a whole",
            )
    table[leaf] = value


def problem_text(problem: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> str:
    """Return an error of pydantic as text: the dotted key, and what is wrong with its value.

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
