"""The commands, in the order of the data flow.

Options are checked before what runs them is imported: loading torch alone takes seconds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from pipeline.cli.common import (
    Against,
    Dataset,
    DatasetName,
    Datasets,
    EngineProject,
    Force,
    Jobs,
    ModelProject,
    Output,
    ProfileProject,
    Project,
    StageProject,
    Stores,
    Where,
    WorkersProject,
    command,
    guarded,
)
from pipeline.cli.models import doctor, models_app
from pipeline.config import REVIEWED
from pipeline.engine.options import RunOptions

CHAIN = "Images -> SAM2 masks -> CLIP features -> few-shot learners -> report."
app = typer.Typer(help=CHAIN, no_args_is_help=True, pretty_exceptions_enable=False)
data_app = typer.Typer(help="Add, check and preview datasets.", no_args_is_help=True)
splits_app = typer.Typer(help="Train, validation and test parts.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(splits_app, name="splits")
app.add_typer(models_app, name="models")
command(app, "pipeline doctor --dataset brain")(doctor)


@command(app, "pipeline audit --dataset brain")
def audit(dataset: Dataset, project: WorkersProject, against: Against = None) -> None:
    """Find copies of images in both train and test -> cache/DATASET/audit.parquet

    Exits 3 when more images cannot be read than audit.max_failed allows.
    """
    show_audit(dataset, project, against, options=project.options)


def show_audit(
    dataset: str,
    project: Project,
    against: str | None,
    masks: Sequence[str] = (),
    options: RunOptions = RunOptions(),
) -> None:
    """Run the audit and print it, with what was found about `masks`, if anything."""
    from pipeline.audit import across_text, audit_dataset, audit_text, compare_datasets
    from pipeline.engine.record import RunRecord

    params, paths = project.params, project.paths
    summary = audit_dataset(dataset, params, paths, options)
    text = audit_text(summary, str(paths.audit_pairs(dataset)))
    if against:
        pairs = compare_datasets(dataset, against, params, paths, options)
        copies, unreadable = pairs.to_dict("records"), pairs.attrs["unreadable"][against]
        other = RunRecord("check", against, total=pairs.attrs["images"][against], failed=unreadable)
        if other.failed_share > params.audit.max_failed:
            raise other.too_many_failed(params.audit.max_failed, paths.manifest(against))
        summary |= {f"copies_in_{against}": copies, f"unreadable_in_{against}": unreadable}
        text += "\n" + across_text(against, copies, unreadable)
    summary |= {"masks": list(masks)} if masks else {}
    project.show(summary, "\n".join([text, *masks]))


@command(app, "pipeline segment --dataset brain --set segment.prompt=auto")
def segment(
    dataset: Dataset,
    project: EngineProject,
    embeddings: Annotated[bool, Option("--embeddings", help="Keep SAM2's embeddings.")] = False,
) -> None:
    """Stage 1: m = SAM2(x) for every image -> cache/DATASET/masks.zarr"""
    if embeddings:
        settings = [*(project.settings or []), "segment.embeddings=true"]
        project = replace(project, settings=settings)
    from pipeline.segment.segment import segment_dataset

    project.run(segment_dataset, dataset)


@command(app, "pipeline prompt-quality --dataset brain --images 300", name="prompt-quality")
def prompt_quality(
    dataset: Dataset,
    project: StageProject,
    images: Annotated[int | None, Option(min=0, help="Sample size; 0: all with a mask.")] = None,
) -> None:
    """Every prompt strategy against ground truth -> cache/DATASET/prompt_quality.parquet"""
    if images is not None:
        sizes = (f"prompt_quality.{kind}={images}" for kind in ("images", "phantoms"))
        project = replace(project, settings=[*(project.settings or []), *sizes])
    from pipeline.segment.prompt_quality import best_line, measure_prompts

    given = dataset, project.params, project.paths
    record = measure_prompts(*given, project.options)
    project.show(record.to_json(), f"{record.summary()}\n{best_line(*given)}".rstrip())


@command(app, "pipeline review --dataset brain --order random")
def review(
    dataset: Dataset,
    project: ModelProject,
    port: Annotated[int, Option(min=0, max=65535, help="0: any that is free.")] = 0,
    order: Annotated[str, Option(help="empty, full, low, differ or random.")] = "empty",
) -> None:
    """Correct masks in the browser, on this machine only -> cache/DATASET/reviewed/"""
    from pipeline.review.server import review_dataset

    given = {"port": port, "order": order, "say": functools.partial(typer.echo, err=True)}
    count = review_dataset(dataset, project.params, project.paths, project.options, **given)
    written = project.paths.masks(dataset, "reviewed/all")
    project.show({"written": count}, f"{written}: {count} rows written")


def take_corrections(dataset: str, project: ModelProject, variant: str) -> None:
    """Write what was corrected since into the variant `reviewed`, if that one is asked for: a page
    may be open, or have been killed."""
    if variant == REVIEWED:
        from pipeline.review.variant import update_variant

        update_variant(dataset, project.params, project.paths)


@command(app, "pipeline adapt --dataset breast --method lora --shots 16")
def adapt(
    dataset: Dataset,
    project: StageProject,
    method: Annotated[str | None, Option(help="decoder, lora, adapter or full.")] = None,
    shots: Annotated[int | None, Option(min=0, help="Masks to learn from; 0: all.")] = None,
    seed: Annotated[int | None, Option(min=0, help="Seed of draw and training.")] = None,
    steps: Annotated[int | None, Option(min=1, help="Batches to learn from.")] = None,
    source: Annotated[
        str | None, Option("--from", help="Learn from a variant, such as reviewed; default: truth.")
    ] = None,
    name: Annotated[str, Option(help="Of the variant; default: method-shots.")] = "",
) -> None:
    """Fine-tune SAM2 on a few true masks, one adapter a fold -> cache/DATASET/masks/NAME/"""
    given = {"method": method, "shots": shots, "seed": seed, "steps": steps, "source": source}
    settings = [f"adapt.{key}={value}" for key, value in given.items() if value is not None]
    project = replace(project, settings=[*(project.settings or []), *settings])
    from pipeline.adapt import adapt_dataset

    take_corrections(dataset, project, project.params.adapt.source)
    made = adapt_dataset(dataset, project.params, project.paths, project.options, variant=name)
    project.show(made.record.to_json() | {"dice": made.dice}, made.summary())


@command(app, "pipeline encode --dataset brain --batch-size 64")
def encode(
    dataset: Dataset,
    project: EngineProject,
    masks: Annotated[str | None, Option(help="A variant, of adapt or review.")] = None,
) -> None:
    """Stage 2: I = E_v(x * m) and T = E_t(t) -> cache/DATASET/features.zarr"""
    from pipeline.encode.encode import encode_dataset, parts_of_variant

    if masks is None:
        project.run(encode_dataset, dataset)
        return
    take_corrections(dataset, project, masks)
    for part in parts_of_variant(dataset, masks, project.paths):
        project.run(functools.partial(encode_dataset, variant=part), dataset)


@command(app, "pipeline train --dataset brain --learner medfocus --jobs 2")
def train(
    dataset: Dataset,
    project: WorkersProject,
    learner: Annotated[list[str] | None, Option(help="Default: all of params.yaml.")] = None,
    jobs: Jobs = -1,
    force: Force = False,
) -> None:
    """Fit learners: protocol x view x fraction x seed -> cache/DATASET/runs/LEARNER/"""
    from pipeline.learners.train import train_dataset

    given = {"jobs": jobs, "force": force, "options": project.options}
    records = train_dataset(dataset, project.params, project.paths, learner, **given)
    text = "\n".join(record.summary() for record in records)
    project.show([record.to_json() for record in records], text)


@command(app, "pipeline evaluate --dataset brain")
def evaluate(dataset: Dataset, project: Project, jobs: Jobs = -1) -> None:
    """Metrics with intervals, per seed and fraction -> cache/DATASET/metrics.parquet"""
    from pipeline.evaluate import evaluate_dataset

    found = evaluate_dataset(dataset, project.params, project.paths, jobs=jobs)
    project.show(found, project.paths.metrics(dataset))


@command(app, "pipeline compare --dataset breast --quick")
def compare(
    project: WorkersProject,
    dataset: Datasets = None,
    quick: Annotated[bool, Option("--quick", help="Two seeds, two shares; kept apart.")] = False,
    jobs: Jobs = -1,
) -> None:
    """Train what the rows of the study lack, and compare them -> cache/DATASET/compare.parquet"""
    from pipeline.compare import compare_study, comparison_text

    names = project.datasets(dataset)
    given = {"quick": quick, "jobs": jobs, "options": project.options}
    tables, sets = compare_study(names, project.params, project.paths, **given)
    values = {name: json.loads(one.to_json(orient="records")) for name, one in tables.items()}
    project.show(values, comparison_text(tables, sets))


@command(app, "pipeline report --dataset brain --dataset lung")
def report(project: Project, dataset: Datasets = None) -> None:
    """One self-contained page: tables, plots, overlays -> report/index.html"""
    from pipeline.report.build import build_report

    page = build_report(project.params, project.paths, project.datasets(dataset))
    project.show_written([page])


@command(app, "pipeline ablate --dataset covid --dataset breast")
def ablate(
    dataset: Annotated[list[str], Option("--dataset", "-d", help="Repeated: several.")],
    project: ProfileProject,
    encoder: Annotated[
        list[str] | None, Option(help="Profile of params.yaml to encode with as well.")
    ] = None,
    jobs: Jobs = -1,
) -> None:
    """Change one part of the method at a time and compare -> cache/ablations.csv"""
    from pipeline.ablate import run_ablations

    names, given = project.datasets(dataset), {"encoders": encoder or [], "jobs": jobs}
    given["params_file"] = project.params_file
    project.show_written([run_ablations(names, project.params, project.paths, **given)])


@command(app, "pipeline results --dataset brain")
def results(
    project: Project,
    dataset: Datasets = None,
    masks: Annotated[bool, Option("--masks", help="masks.md: Dice and what follows.")] = False,
) -> None:
    """README.md with one table and one figure, and CSV files -> results/"""
    from pipeline.report.masks import write_masks
    from pipeline.report.results import write_results

    write = write_masks if masks else write_results
    project.show_written(write(project.params, project.paths, project.datasets(dataset)))


@command(app, "pipeline predict --dataset brain scan1.jpg scan2.dcm")
def predict(
    dataset: Dataset,
    images: Annotated[list[Path], Argument(help="New images.")],
    project: ModelProject,
    learner: Annotated[str | None, Option(help="Default: the best one on validation.")] = None,
    view: Annotated[str | None, Option(help="Default: the best one on validation.")] = None,
    out: Annotated[Path, Option(help="Folder of the overlays.")] = Path("predictions"),
) -> None:
    """Class probabilities and a mask overlay for new images."""
    from pipeline.predict import predict_images

    given = {"options": project.options, "learner": learner, "view": view, "out": out}
    if not project.as_json:
        given["on_result"] = typer.echo
    outcome = predict_images(dataset, images, project.params, project.paths, **given)
    for text in [outcome.to_json()] if project.as_json else outcome.failures():
        typer.echo(text)
    if outcome.failed:
        raise typer.Exit(3)


@command(app, "pipeline status --json")
def status(project: Project) -> None:
    """What the last runs of each dataset did: done, skipped, failed by name; locks in use."""
    from pipeline.engine.status import known_datasets, status_rows, status_text
    from pipeline.io import lock_notes

    rows = status_rows(project.paths, known_datasets(project.paths, project.params.datasets))
    locks = [f"lock: {line}" for line in lock_notes(project.paths.root)]
    project.show(rows, "\n".join([status_text(rows), *locks]))


@command(app, "pipeline verify cache/brain/masks.zarr")
def verify(stores: Stores, output: Output) -> None:
    """Check every row of stores against its checksum and list what is lost."""
    from pipeline.store import verify_store

    found = {path: verify_store(path) for path in stores}
    values = {path: {"ok": one.ok, **asdict(one)} for path, one in found.items()}
    text = "\n".join(f"{path}: {one.summary()}" for path, one in found.items())
    output.show(values, text, failed=not all(one.ok for one in found.values()))


@command(app, "pipeline convert cache/brain/masks.zarr")
def convert(stores: Stores) -> None:
    """Convert stores of an earlier version; nothing is computed again."""
    from pipeline.store import convert_store

    for path in stores:
        typer.echo(f"{path}: {convert_store(path)} rows converted")


@dataclass
class AddOptions:
    """Options of `add_dataset` that are passed on."""

    masks: Annotated[
        str | None, Option(help="Folder, CSV or none; default: named for images next to them.")
    ] = None
    mask_name: Annotated[str, Option(help="Glob of the paths of masks, e.g. '*_left*'.")] = ""
    layout: Annotated[
        str, Option(help="What folders are, e.g. 'split/class/patient/*'; default: a guess.")
    ] = ""
    split_name: Annotated[
        list[str] | None, Option(help="Another name of a split, e.g. 'holdout=test'.")
    ] = None
    groups: Annotated[str | None, Option(help="CSV of known groups (path, series, ...).")] = None
    patient_regex: Annotated[
        str | None, Option(help="In paths; its first group is the patient.")
    ] = None
    max_rank: Annotated[int, Option(min=0, help="Highest rank used of a CSV of masks.")] = 5
    on_shared_patient: Annotated[str | None, Option(help="error, drop-train or drop-test.")] = None
    replace: Annotated[bool, Option("--replace", help="Remove rows that no CSV lists.")] = False
    force: Annotated[bool, Option("--force", help="Replace another manifest.")] = False


@dataclass
class TableOptions:
    """The fields of `TableRules`."""

    path_column: Annotated[str | None, Option(help="CSV: column of the image files.")] = None
    label_column: Annotated[
        list[str] | None, Option(help="CSV: column of the class; repeated: columns of 0 and 1.")
    ] = None
    patient_column: Annotated[str | None, Option(help="CSV: column of the patient.")] = None
    label_sep: Annotated[str | None, Option(help="CSV: what separates the labels of a cell.")] = (
        None
    )
    label_rule: Annotated[
        str | None, Option(help="CSV: of several labels first, single (no others) or whole.")
    ] = None
    box_format: Annotated[str | None, Option(help="CSV: corners, xywh, centre or none.")] = None
    box_rule: Annotated[str | None, Option(help="CSV: of several boxes union or largest.")] = None
    images: Annotated[str | None, Option(help="CSV: folder of its images.")] = None


@dataclass
class MaskOptions:
    """How ground truth is read, where its values can be read in two ways."""

    mask_values: Annotated[str | None, Option(help="Values of the region: 1,2 or '#ff0000'.")] = (
        None
    )
    mask_ignore: Annotated[str | None, Option(help="Values that are outside, such as 255.")] = None
    mask_invert: Annotated[bool, Option("--mask-invert", help="The ground is white.")] = False
    resize_masks: Annotated[
        bool, Option("--resize-masks", help="Take masks of another size or grid.")
    ] = False

    @property
    def rule(self) -> str:
        """The words of the manifest's column `mask_rule`."""
        lists = {"values": self.mask_values, "ignore": self.mask_ignore}
        words = [f"{name}={given.replace(' ', '')}" for name, given in lists.items() if given]
        flags = {"invert": self.mask_invert, "resize": self.resize_masks}
        return " ".join([*words, *(name for name, given in flags.items() if given)])


@command(data_app, "pipeline data add brain --from scans/ --masks scan_masks/ --groups groups.csv")
def add(
    dataset: DatasetName,
    source: Annotated[
        list[str],
        Option("--from", help="Folder split/class/image, zip or CSV, or its URL (repeated: CSVs)."),
    ],
    project: Project,
    given: AddOptions,
    table: TableOptions,
    truth: MaskOptions,
) -> None:
    """Create data_manifests/DATASET.csv; the images are not copied."""
    from pipeline.intake import TableRules, add_dataset

    rules = TableRules(**vars(table) | {"label_column": tuple(table.label_column or ())})
    options = vars(given) | {"mask_rule": truth.rule, "table": rules}
    summary = add_dataset(dataset, source, paths=project.paths, **options)
    project.show(summary.to_json(), summary.text(), failed=summary.failed)


@command(data_app, "pipeline data refresh brain")
def refresh(dataset: DatasetName, project: Project) -> None:
    """Update the hashes and sizes of a manifest from its files."""
    from pipeline.intake import refresh_dataset

    summary = refresh_dataset(dataset, paths=project.paths)
    project.show(summary.to_json(), summary.text(), failed=summary.failed)


@command(data_app, "pipeline data sample --dataset brain --images 160")
def sample(
    project: Project,
    dataset: Datasets = None,
    images: Annotated[int, Option(min=8, help="Images per dataset.")] = 160,
    seed: Annotated[int, Option(help="Same seed, same bytes.")] = 0,
    known_answer: Annotated[Where | None, Option(help="A class visible only there.")] = None,
) -> None:
    """Draw synthetic phantoms of the four tasks, with ground-truth masks."""
    from pipeline.phantoms import make_known_answer, make_sample

    if not known_answer:
        names = tuple(dataset or project.params.datasets)
        project.show_written(make_sample(project.paths, names, images, seed))
        return
    if dataset:
        raise typer.BadParameter("--known-answer creates its own set: omit --dataset")
    name = f"known-{known_answer}"
    project.show_written([make_known_answer(project.paths, name, known_answer, images, seed)])


@command(data_app, "pipeline data check --dataset brain")
def check(dataset: Dataset, project: Project, against: Against = None) -> None:
    """Check the manifest and the ground truth, then do what `pipeline audit` does."""
    from pipeline.encode.text import load_prompts, prompted_classes
    from pipeline.intake.rows import measure_masks
    from pipeline.manifest import read_manifest

    paths, tables = project.paths, {}
    for name in filter(None, [dataset, against]):
        if classes := prompted_classes(paths.prompts, name):
            load_prompts(paths.prompts, name, classes)  # raises PromptError
        tables[name] = read_manifest(paths.manifest(name), data=paths.data(name), classes=classes)
        if unused := ", ".join(sorted(set(classes or ()) - set(tables[name]["label"]))):
            typer.echo(f"warning: prompts for classes that {name} lacks: {unused}", err=True)
    masks = measure_masks(tables[dataset], paths.data(dataset))
    bad = masks.unusable(tables[dataset]).items()
    unusable = [f"the mask of {name} cannot be used: {why}" for name, why in bad]
    show_audit(dataset, project, against, masks.lines() + unusable)


@command(data_app, "pipeline data preview --dataset brain --out preview.png")
def preview(
    dataset: Dataset,
    project: Project,
    out: Annotated[Path, Option(help="The contact sheet (PNG).")] = Path("preview.png"),
    images: Annotated[int, Option(min=1, help="How many images.")] = 48,
) -> None:
    """A contact sheet of what the models will see, with warnings."""
    from pipeline.preview import preview_dataset

    shown = {"geometry": project.params.encode.geometry, "window": project.params.images.shown}
    warnings = preview_dataset(dataset, project.paths, out, images=images, **shown)
    project.show_written([out], warnings=list(map(str, warnings)))


@command(splits_app, "pipeline splits export --dataset brain --out splits.csv")
def export(
    dataset: Dataset,
    project: Project,
    out: Annotated[Path, Option(help="The CSV to write.")] = Path("splits.csv"),
) -> None:
    """Write who trains, validates and tests, per protocol, seed and fraction, with hashes."""
    from pipeline.splits import load_split_plan

    plan = load_split_plan(dataset, project.params, project.paths)
    plan.export(out)
    project.show_written([out], notes=plan.notes)


main = functools.partial(guarded, app)
