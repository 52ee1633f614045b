"""params.yaml, parsed once into frozen typed objects, with the same defaults and what they mean."""

from __future__ import annotations

import re
from os.path import abspath
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from pipeline.errors import ConfigError

DEFAULT_LEARNERS = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
LEARNERS = (  # the built-in ones; docs/learners.md
    *DEFAULT_LEARNERS,
    *("nearest-prototype", "k-nn", "tip-adapter", "tip-adapter-f", "clip-adapter"),
    *("lp-plus-plus", "ss-text"),
    *("coop", "cocoop", "visual-prompt", "fine-tuned", "out-of-core-probe"),
)
VIEWS = ("whole", "masked", "crop", "binary", "oracle", "random")  # encoded by default
MORE_VIEWS = ("dim", "blur", "grey", "random-crop")  # built in too, encoded on request
POOLED_VIEWS = ("trunk", "inside", "outside", "random-inside")  # of the maps of the whole image
LOCAL = "local-dir:"
"""Before the folder with a copy of a repository of open_clip, as the name of a model."""
LABELS = "labels@"
"""Before a variant of the masks, as a part of a view: the labels of the adapter's images."""
TIMM = "timm:"
"""Before the name of an image encoder of timm, which has no texts."""
# Names of datasets and learners become names of files and of DVC stages.
DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


def _each_once(value: tuple) -> tuple:
    if len(set(value)) != len(value):
        raise ValueError("must hold each value once")
    return value


def parts_of(view: str) -> tuple[str, ...]:
    """Return the stored views that a view of a run joins: ("whole", "crop") of "whole+crop"."""
    return tuple(part for part in view.split("+") if not part.startswith(LABELS))


def labels_of(view: str) -> str:
    """Return the variant of the masks whose images a run has the labels of as well: "lora-16" of
    "whole+labels@lora-16", "" for none."""
    named = [part for part in view.split("+") if part.startswith(LABELS)]
    return "+".join(named).removeprefix(LABELS)


REVIEWED = "reviewed"
"""The variant of the masks that a person corrected."""


def variant_of(view: str) -> str:
    """Return the variant of the masks that a stored view is made with, "" for masks.zarr: "lora-16"
    of "masked@lora-16"."""
    return view.partition("@")[2]


def _no_part_twice(value: tuple[str, ...]) -> tuple[str, ...]:
    for view in value:
        if len(set(parts_of(view))) < len(parts_of(view)):
            raise ValueError(f"{view!r} joins a view with itself")
    return value


def _fractions_rise(value: tuple[float, ...]) -> tuple[float, ...]:
    rounded = [round(f, 4) for f in value]  # predictions and reports tell fractions apart by these
    if not value or any(not 1e-4 <= f <= 1 for f in value) or rounded != sorted(set(rounded)):
        raise ValueError("must rise within 0.0001 to 1, also when rounded to 4 decimals")
    return value


def _rising(value: tuple) -> tuple:
    if list(value) != sorted(set(value)):
        raise ValueError("must rise, with each value once")
    return value


EachOnce = AfterValidator(_each_once)
Name = Annotated[str, Field(pattern=f"^{DATASET_NAME}$")]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**15 - 1)], ...], EachOnce]  # int16
Fractions = Annotated[tuple[float, ...], AfterValidator(_fractions_rise)]
Rising = AfterValidator(_rising)
Views = Annotated[tuple[str, ...], EachOnce, AfterValidator(_no_part_twice)]
MaxFailed = Annotated[float, Field(ge=0, le=1, description="Share of images that may fail.")]
Precision = Annotated[Literal["auto", "fp32", "bf16"], Field(description="auto: bf16 on cuda")]
# YAML reads a section without parameters as None.
LearnerSection = Annotated[dict[str, Any] | None, AfterValidator(lambda value: value or {})]
ShotKind = Literal["balanced", "realistic"]
Protocol = Literal["official", "grouped", "ground_truth", "grouped_truth"]
CROSS_VALIDATED: tuple[Protocol, ...] = ("grouped", "grouped_truth")  # each seed tests a fold
FEW_SHOT: tuple[Protocol, ...] = ("official", "grouped")  # those that `splits.shots` draws from


class Section(BaseModel):
    """A part of params.yaml: cannot be changed once read, and knows no other keys."""

    model_config = {"frozen": True, "extra": "forbid", "use_attribute_docstrings": True}


class ModelSpec(Section):
    """A model to load. Relative paths start at the folder of params.yaml."""

    name: str
    """Of a configuration: sam2-micro, sam2.1_hiera_large, medsam2, edgetam; clip-micro,
    medclip-vit, one of open_clip, a JSON file, hf-hub:org/name or local-dir:FOLDER with an
    open_clip_config.json, or timm:name."""
    checkpoint: str | None = None
    """A path, package (shipped with the embedded models), hf-hub:org/name[/file], or open_clip's
    tag; default: package, or the repository or folder of `name`."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Checked if given; the actual hash is recorded in any case."""
    image_size: int | None = Field(None, ge=64, multiple_of=32)
    """sam2: side of the square input in pixels, if not that of the configuration."""
    trained_as: str | None = None
    """clip: open_clip's tag of weights with the same activation and preprocessing."""
    text: str | None = None
    """clip: folder of the text tower's config.json and tokenizer, instead of the hub."""
    _folder: Path = PrivateAttr(Path())

    def path(self, name: str) -> Path:
        """Return a path of this model; a relative one starts at the folder of params.yaml."""
        return self._folder / Path(name).expanduser()

    def check_followed(self) -> None:
        """Raise ConfigError if DVC could not see that a file of this model has changed: it compares
        params.yaml and the files in checkpoints/."""
        local = self.name.removeprefix(LOCAL) if self.name.startswith(LOCAL) else None
        names = [self.text, local, *([] if self.sha256 else [self.checkpoint])]
        for path in (self.path(name) for name in names if name):
            followed = Path(abspath(path)).is_relative_to(abspath(self._folder / "checkpoints"))
            if path.exists() and not followed:
                remedy = "move or link it into checkpoints/, or for a checkpoint state its sha256"
                raise ConfigError("DVC does not see changes of this file", path=path, remedy=remedy)


class ProfileParams(Section):
    """A pair of models: `sam2` for segment, `clip` for encode."""

    sam2: ModelSpec
    clip: ModelSpec

    @model_validator(mode="after")
    def _options_are_of_the_model(self) -> Self:
        for name, foreign in {"sam2": ("trained_as", "text"), "clip": ("image_size",)}.items():
            if wrong := [key for key in foreign if getattr(getattr(self, name), key) is not None]:
                raise ValueError(f"{name} has no {', '.join(wrong)}")
        return self


class AuditParams(Section):
    """The leak audit: which pairs of images count as copies."""

    min_correlation: float = Field(0.995, ge=0.9, le=1)
    """Of two 32 x 32 grey thumbnails, above which the images are copies."""
    min_structure: float = Field(0.88, ge=0.8, le=1)
    """Of the 64 x 64 local structure, above which they are copies too."""
    mirrored: bool = True
    """Whether mirrored and turned copies are looked for too."""
    max_failed: MaxFailed = 0.0


class WindowParams(Section):
    """A window: what becomes black to white."""

    center: float
    """Its middle, in HU for CT."""
    width: float = Field(gt=0)
    """From black to white."""


class ImagesParams(Section):
    """How images are read."""

    window: Literal["auto"] | WindowParams = "auto"
    """Of CT slices that state no window, and of volumes (NIfTI, MHA, NRRD)."""

    @property
    def shown(self) -> tuple[float, float] | None:
        """The window as (center, width); None for auto."""
        return None if self.window == "auto" else (self.window.center, self.window.width)


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
    union: int = Field(3, ge=1, le=8)
    """union: best candidates of auto that are merged."""
    clipseg: str = "CIDAS/clipseg-rd64-refined"
    """clipseg: a folder with its weights in checkpoints/, or a repository of the hub."""
    center_box: float = Field(0.7, gt=0, le=1)
    """center-box: share of each side."""
    min_area: float = Field(0.002, ge=0, lt=1)
    """A mask of a smaller share of the image counts as empty."""
    max_area: float = Field(0.95, gt=0, le=1)
    """A mask of a larger share of the image counts as full-frame."""
    embeddings: bool = False
    """Whether SAM2's embeddings of the images are kept, for other prompts."""
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """What runs SAM2's image encoder in `segment` and `predict`; see docs/peers.md."""
    precision: Precision = "auto"
    max_failed: MaxFailed = 0.0


class AdaptParams(Section):
    """SAM2 fine-tuned on ground-truth masks of training images; see pipeline.adapt."""

    method: Literal["decoder", "lora", "adapter", "full"] = "full"
    """What is trained: pipeline.adapt.methods."""
    shots: int = Field(16, ge=0)
    """Images whose masks are learned from, for each adapter; 0 = all."""
    source: str = Field("", pattern=f"^({DATASET_NAME})?$")
    """Variant whose masks are learned from, such as reviewed; empty = the ground truth."""
    protocol: Literal["official", "grouped"] = "grouped"
    """grouped: an adapter for each fold of cross-validation; official: one."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of images, of new weights and of the augmentation."""
    steps: int = Field(200, ge=1)
    """Batches that are learned from."""
    batch_size: int = Field(8, ge=1)
    """Images of a batch."""
    learning_rate: float | None = Field(None, gt=0)
    """At its highest; null = the one of the method."""
    rank: int = Field(8, ge=1)
    """lora: rank of the updates; adapter: width of the modules."""
    average: Literal["", "mirrored", "averaged"] = ""
    """The prompt strategy whose masks are those of the variant; empty = no-prompt."""


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
    """Seed of the sample and the jitter."""
    max_failed: MaxFailed = 0.0


class EncodeParams(Section):
    """Stage 2, I = E_v(x * m) and T = E_t(t)."""

    geometry: Literal["auto", "pad", "squash", "crop"] = "auto"
    """How an image becomes square: pad, squash, or crop; auto is squash for a model that was
    trained so, such as SigLIP, and pad, which loses nothing, for others."""
    views: Annotated[Views, Field(min_length=1)] = VIEWS
    """What CLIP is shown of each image: names of pipeline.encode.views."""
    fill: Literal["black", "mean", "blur"] = "black"
    """What lies outside the mask."""
    crop_margin: float = Field(0.1, ge=0)
    """Margin of the crop view, as a share of the mask's box."""
    dim: float = Field(0.35, ge=0, le=1)
    """dim view: brightness of what lies outside the mask, as a share of its own."""
    tokens: bool = False
    """Whether patch-token features are kept as well."""
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """What runs the image encoder in `encode` and `predict`; see docs/peers.md."""
    precision: Precision = "auto"
    max_failed: MaxFailed = 0.0

    @model_validator(mode="after")
    def _what_is_kept_can_be_made(self) -> Self:
        if self.tokens and self.runtime != "torch":
            raise ValueError("runtime: patch tokens need torch")
        pooled = set(self.views).intersection(POOLED_VIEWS)
        if pooled and "whole" not in self.views:
            raise ValueError(f"views: {', '.join(sorted(pooled))} need the view whole as well")
        return self


class SplitsParams(Section):
    """Which images train, which choose hyperparameters, which are tested."""

    fractions: Fractions = (0.05, 0.1, 0.2, 0.5, 1.0)
    """Few-shot shares of the training labels, nested, in whole patients and groups."""
    shots: dict[ShotKind, Annotated[tuple[Annotated[int, Field(ge=1)], ...], Rising]] = {}
    """Numbers of images a class: balanced, or realistic; see pipeline.splits.plan.Draw.shots."""
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
    """Each draws the labels and the initial weights: one fit per learner, view, share and seed."""
    views: dict[Protocol, Views] = {
        **dict.fromkeys(("official", "grouped"), VIEWS[:4]),
        **dict.fromkeys(("ground_truth", "grouped_truth"), (*VIEWS[:2], *VIEWS[4:])),
    }
    """The views that each protocol is run on: stored ones, or joint ones such as whole+crop."""


class ComparedRun(Section):
    """A learner trained on the features of a view; `key` looks up its rows in tables."""

    learner: str
    view: str

    @property
    def key(self) -> tuple[str, str]:
        return self.learner, self.view


class NamedRun(ComparedRun):
    """A run with the name that tables and figures of the report show."""

    name: str = Field(min_length=1)


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
        names, keys = ({getattr(run, of) for run in self.runs} for of in ("name", "key"))
        if self.runs[0].key != self.baseline.key or min(len(names), len(keys)) < len(self.runs):
            raise ValueError("runs: the first must be the baseline; names and runs must differ")
        return self


class EvaluateParams(Section):
    """Intervals and calibration."""

    bootstrap: int = Field(1000, ge=10)
    """Resamples of the test images, by patient, group and copies where there are any."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Confidence level of every interval."""
    bins: int = Field(15, ge=2)
    """Of the reliability diagram and of ECE."""
    seed: int = 0
    """Seed of the resamples."""


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
    """Folder of the images, relative to the project, or a URL; a dataset's folder may be a link."""
    store_root: str = "cache"
    """Folder of masks and features, relative to the project, or a URL (s3://bucket/folder)."""
    profile: str
    """Which of `profiles` is used."""
    profiles: dict[str, ProfileParams]
    """Pairs of models by name."""
    images: ImagesParams = ImagesParams()
    audit: AuditParams = AuditParams()
    segment: SegmentParams = SegmentParams()
    adapt: AdaptParams = AdaptParams()
    prompt_quality: PromptQualityParams = PromptQualityParams()
    encode: EncodeParams = EncodeParams()
    splits: SplitsParams = SplitsParams()
    train: TrainParams = TrainParams()
    learners: dict[Name, LearnerSection] = {name: {} for name in DEFAULT_LEARNERS}
    """Parameters of each learner, in the order of results; `LearnerParams` checks them."""
    study: StudyParams = StudyParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        # Whether a view is encoded, `train` asks the store: one command may set encode.views.
        views = {*self.encode.views, *VIEWS, *MORE_VIEWS, *POOLED_VIEWS}
        runs = (self.study.baseline, *self.study.runs)
        named = [(f"train.views.{p}", view) for p, of in self.train.views.items() for view in of]
        named += [("study: view", run.view) for run in runs]
        names = [("profile", self.profile, self.profiles)]
        names += [("study: learner", run.learner, {*self.learners, *LEARNERS}) for run in runs]
        for where, view in named:
            for part in view.split("+"):
                if "@" in part and not re.fullmatch(DATASET_NAME, variant_of(part)):
                    problem = f"{where}: {part!r} names no variant of the masks after the @"
                    raise ValueError(problem)
            if not parts_of(view) or "+" in labels_of(view):
                raise ValueError(f"{where}: {view!r} is not one view with labels@ of one variant")
            names += [(where, part.partition("@")[0], views) for part in parts_of(view)]
        for where, name, known in names:
            if name not in known:
                raise ValueError(f"{where}: {name!r} is not one of {', '.join(sorted(known))}")
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
        overrides: values by dotted key for this run, e.g. `{"segment.prompt": "auto"}`.

    Raises:
        ConfigError: the file cannot be read or is no table in YAML, or a value is not allowed;
            every problem is listed with its dotted key.
    """
    path, overrides = Path(path), overrides or {}
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("no table of parameters")
    except (OSError, yaml.YAMLError, ValueError) as error:
        remedy = "correct it, run from the project folder, or pass --params"
        raise ConfigError(f"cannot be read: {error}", path=path, remedy=remedy) from None
    for dotted, value in overrides.items():
        table, (*parents, leaf) = raw, dotted.split(".")
        try:
            for key in parents:
                table = table.setdefault(key, {})
            table[leaf] = value
        except (AttributeError, TypeError):
            problem = f"{dotted}: {'.'.join(parents)} is no table"
            raise ConfigError(problem, path=path, remedy="correct the key") from None
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        given = f", or what a flag or --set gave: {', '.join(overrides)}" if overrides else ""
        remedy = f"correct these keys{given}"
        raise ConfigError(problem_text(error), path=path, remedy=remedy) from None
    for profile in params.profiles.values():
        profile.sam2._folder = profile.clip._folder = path.parent
    return params


def problem_text(error: ValidationError, prefix: str = "params") -> str:
    """Return an error of pydantic as text: each dotted key below `prefix`, and what is wrong."""
    texts = []
    for problem in error.errors():
        dotted = ".".join(map(str, (prefix, *problem["loc"])))
        texts.append(f"{dotted.removeprefix('params.')}: {problem['msg']}")
    return "; ".join(texts)
