"""params.yaml, parsed once into frozen typed objects. Functions take these, never dictionaries.

The text below each field describes it; params.yaml spells out the same defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

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

LEARNERS = {
    "zero-shot": "zero_shot",
    "linear-probe": "linear_probe",
    "medfocus": "medfocus",
    "medfocus-probe": "medfocus",
}
"""The built-in learners, and the modules of pipeline.learners that hold them."""
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


def _section(value: Any) -> Any:
    return {} if value is None else value  # YAML reads a section without parameters as None


EachOnce = AfterValidator(_each_once)
Name = Annotated[str, Field(pattern=f"^{DATASET_NAME}$")]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**15 - 1)], ...], EachOnce]  # int16
Fractions = Annotated[tuple[float, ...], AfterValidator(_rising)]
Views = Annotated[tuple[str, ...], EachOnce]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "fp32", "bf16"]
Protocol = Literal["official", "grouped", "ground_truth", "grouped_truth"]
CROSS_VALIDATED: tuple[Protocol, ...] = ("grouped", "grouped_truth")  # each seed tests a fold


class Section(BaseModel):
    """A part of params.yaml: cannot be changed once read, and knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSpec(Section):
    """A model to load."""

    name: str
    """Of a configuration: sam2-micro, sam2.1_hiera_large, clip-micro, or one of open_clip."""
    checkpoint: str | None = None
    """A path, package (shipped with the embedded models), hf-hub:org/name, or open_clip's tag."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Checked if given; the actual hash is recorded in any case."""


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
    max_failed: Share = 0.0
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
    precision: Precision = "auto"
    """Of the model; auto: bf16 on cuda, else fp32."""
    max_failed: Share = 0.0
    """Share of images that may fail before the stage fails."""

    @model_validator(mode="after")
    def _areas_rise(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError("min_area is more than max_area")
        return self


class PromptQualityParams(Section):
    """Every prompt strategy judged against ground truth, on a sample of each dataset."""

    images: int = Field(200, ge=0)
    """Of a dataset, its test part first; 0 = all that have a mask."""
    phantoms: int = Field(6, ge=0)
    """Images of a synthetic dataset."""
    strategies: Annotated[tuple[str, ...], Field(min_length=1), EachOnce] = (
        *("salient", "salient-refine", "auto", "center-box", "box", "points"),
    )
    """The prompt strategies that are judged."""
    box_jitter: float = Field(0.1, ge=0, le=0.5)
    """box: each edge of the true box is moved by up to this share of its side."""
    seed: int = 0
    """Of the sample and the jitter."""
    max_failed: Share = 0.0
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
    precision: Precision = "auto"
    """Of the model; auto: bf16 on cuda, else fp32."""
    max_failed: Share = 0.0
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
    def _runs_differ(self) -> Self:
        if self.runs[0].key != self.baseline.key:
            raise ValueError("the first of runs must be the baseline (same learner and view)")
        if min(len({r.name for r in self.runs}), len({r.key for r in self.runs})) < len(self.runs):
            raise ValueError("runs: each name and each run may occur only once")
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
    learners: dict[Name, Annotated[dict[str, Any], BeforeValidator(_section)]] = {
        name: {} for name in LEARNERS
    }
    """The parameters of each learner by its name, in the order that results list them. A learner
    checks its own, see `pipeline.learners.LearnerParams`."""
    study: StudyParams = StudyParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        # Whether a view is encoded, `train` asks the store: `--set encode.views=[whole]` is meant
        # for one command.
        views = (*self.encode.views, *EncodeParams.model_fields["views"].default)
        runs = (self.study.baseline, *self.study.runs)
        for where, names, known in (
            ("profile", [self.profile], self.profiles),
            *((f"train.views.{p}", of, views) for p, of in self.train.views.items()),
            ("study: learner", [run.learner for run in runs], (*self.learners, *LEARNERS)),
            ("study: view", [run.view for run in runs], views),
        ):
            if unknown := [name for name in names if name not in known]:
                names = ", ".join(dict.fromkeys(known))
                raise ValueError(f"{where}: {unknown[0]!r} is not one of {names}")
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
    path, overrides = Path(path), overrides or {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "run from the project folder, or pass --params"
        raise ConfigError("no such file", path=path, remedy=remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {error}", path=path, remedy="correct it") from None
    if not isinstance(raw, dict):
        raise ConfigError("holds no table of parameters", path=path, remedy="restore it from git")
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        table = raw
        for key in parents:
            table = table.setdefault(key, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            remedy = f"correct the key, or set {parents[0]} as a whole"
            raise ConfigError(
                f"{dotted}: {'.'.join(parents)} is no table", path=path, remedy=remedy
            )
        table[leaf] = value
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        given = f", or what a flag or --set gave: {', '.join(overrides)}" if overrides else ""
        remedy = f"correct these keys{given}"
        raise ConfigError(problem_text(error), path=path, remedy=remedy) from None


def problem_text(error: ValidationError, prefix: str = "") -> str:
    """Return an error of pydantic as text: each dotted key, and what is wrong with its value.

    Args:
        error: the error.
        prefix: dotted key of the section that was validated; "" = all of params.yaml.
    """
    texts = []
    for problem in error.errors():
        dotted = ".".join(filter(None, [prefix, *map(str, problem["loc"])])) or "params"
        unknown = problem["type"] == "extra_forbidden"
        texts.append(f"{dotted}: {'there is no such parameter' if unknown else problem['msg']}")
    return "; ".join(texts)
