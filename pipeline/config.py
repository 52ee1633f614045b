"""params.yaml, parsed once into frozen typed objects. Functions take these, never dictionaries.

Below every value stands what it means; the defaults are those that params.yaml spells out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.config_rules import (
    EachOnce,
    Fractions,
    Name,
    Seed,
    check_known,
    check_rises,
    check_train_views,
    problem_text,
    replace_dotted,
)
from pipeline.errors import ConfigError

View = str
Views = Annotated[tuple[View, ...], EachOnce]
Seeds = Annotated[tuple[Seed, ...], EachOnce]
Protocol = Literal["official", "grouped", "ground_truth", "grouped_truth"]
CROSS_VALIDATED: tuple[Protocol, ...] = ("grouped", "grouped_truth")  # each seed tests a fold


LEARNERS = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
"""The built-in learners."""


def _empty_sections(value: Any) -> Any:
    """Turn sections without any parameter, which YAML reads as None, into empty ones."""
    if isinstance(value, dict):
        return {name: {} if section is None else section for name, section in value.items()}
    return value


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
    views: tuple[View, ...] = ("whole", "masked", "crop", "binary", "oracle", "random")
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
    """Who trains, who chooses, who is tested."""

    fractions: Fractions = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Few-shot shares of the training labels, nested, in whole patients and groups."""
    val: float = Field(0.2, gt=0, lt=1)
    """Share of the drawn labels that chooses hyperparameters."""
    test: float = Field(0.2, gt=0, lt=1)
    """Share of the images, where the manifest gives no test part."""
    folds: int = Field(5, ge=2)
    """Of the cross-validated protocols; seed s tests fold s modulo folds."""
    seed: int = 0
    """Of the parts that the manifest leaves open and, with each of train.seeds, of the shots."""
    on_leak: Literal["warn", "drop-test", "drop-train", "regroup"] = "warn"
    """What is done about copies and groups that straddle train and test."""


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
    heatmaps: int = Field(4, ge=0)
    """Images of each dataset with a map of patch-text similarity; 0 = no model is run."""


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
    def _values_agree(self) -> Params:
        built_in = EncodeParams.model_fields["views"].default
        check_train_views(self.train.views, self.encode.views, built_in)
        for run in (self.study.baseline, *self.study.runs):
            check_known("study", "learner", run.learner, (*self.learners, *LEARNERS))
            check_known("study", "view", run.view, (*self.encode.views, *built_in))
        area = self.segment
        check_rises("segment", min_area=area.min_area, max_area=area.max_area)
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
        raise ConfigError(f"not valid YAML: {error}", path=path, remedy="mend the file") from None
    if not isinstance(raw, dict):
        raise ConfigError("holds no table of parameters", path=path, remedy="restore it from git")
    for dotted, value in (overrides or {}).items():
        replace_dotted(raw, dotted, value, path)
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(problem_text(problem, Params) for problem in error.errors())
        given = f", or what a flag or --set gave: {', '.join(overrides)}" if overrides else ""
        raise ConfigError(problems, path=path, remedy=f"mend these keys{given}") from None
