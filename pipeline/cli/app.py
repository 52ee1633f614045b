"""The commands, in the order of the data flow.

Options are checked before what runs them is imported: loading torch alone takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.options import (
    Dataset,
    DatasetName,
    Datasets,
    Force,
    Jobs,
    Json,
    ModelProject,
    Project,
    StageProject,
    command,
)

if TYPE_CHECKING:
    from pipeline.intake import AddSummary

app = typer.Typer(
    name="pipeline",
    help="Images -> SAM2 masks -> CLIP features -> few-shot learners -> report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Add, check and preview datasets.", no_args_is_help=True)
splits_app = typer.Typer(help="Train, validation and test parts.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(splits_app, name="splits")


@command(app, "pipeline audit --dataset brain")
def audit(dataset: Dataset, project: Project) -> None:
    """Find copies of images in both train and test -> cache/DATASET/audit.parquet"""
    from pipeline.audit import audit_dataset, audit_text

    summary = audit_dataset(dataset, project.params, project.paths)
    project.show(summary, audit_text(summary, str(project.paths.audit_pairs(dataset))))


@command(app, "pipeline segment --dataset brain --set segment.prompt=auto")
def segment(dataset: Dataset, project: StageProject) -> None:
    """Stage 1: m = SAM2(x) for every image -> cache/DATASET/masks.zarr"""
    from pipeline.segment.segment import segment_dataset

    record = segment_dataset(dataset, project.params, project.paths, project.options)
    project.show(record.to_json(), record.summary())


@command(app, "pipeline prompt-quality --dataset brain --images 300", name="prompt-quality")
def prompt_quality(
    dataset: Dataset,
    project: StageProject,
    images: Annotated[
        int | None, typer.Option(min=0, help="Size of the sample; 0 = all with a mask.")
    ] = None,
) -> None:
    """Every prompt strategy against ground truth -> cache/DATASET/prompt_quality.parquet"""
    if images is not None:
        sizes = (f"prompt_quality.{kind}={images}" for kind in ("images", "phantoms"))
        project = replace(project, settings=[*(project.settings or []), *sizes])
    from pipeline.segment.prompt_quality import measure_prompts

    record = measure_prompts(dataset, project.params, project.paths, project.options)
    project.show(record.to_json(), record.summary())


@command(app, "pipeline encode --dataset brain --batch-size 64")
def encode(dataset: Dataset, project: StageProject) -> None:
    """Stage 2: I = E_v(x * m) and T = E_t(t) -> cache/DATASET/features.zarr"""
    from pipeline.encode.encode import encode_dataset

    record = encode_dataset(dataset, project.params, project.paths, project.options)
    project.show(record.to_json(), record.summary())


@command(app, "pipeline train --dataset brain --learner medfocus --jobs 2")
def train(
    dataset: Dataset,
    project: Project,
    learner: Annotated[
        list[str] | None, typer.Option(help="Name of a learner. Default: all of params.yaml.")
    ] = None,
    jobs: Jobs = -1,
    force: Force = False,
) -> None:
    """Fit learners: protocol x view x fraction x seed -> cache/DATASET/runs/LEARNER/"""
    from pipeline.learners.train import train_dataset

    records = train_dataset(dataset, project.params, project.paths, learner, jobs=jobs, force=force)
    shown = "\n".join(record.summary() for record in records)
    project.show([record.to_json() for record in records], shown)


@command(app, "pipeline evaluate --dataset brain")
def evaluate(dataset: Dataset, project: Project, jobs: Jobs = -1) -> None:
    """Metrics with intervals, per seed and fraction -> cache/DATASET/metrics.parquet"""
    from pipeline.evaluate import evaluate_dataset

    project.show(
        evaluate_dataset(dataset, project.params, project.paths, jobs=jobs),
        project.paths.metrics(dataset),
    )


@command(app, "pipeline report --dataset brain --dataset lung")
def report(project: Project, dataset: Datasets = None) -> None:
    """One self-contained page: tables, plots, overlays -> report/index.html"""
    names = project.datasets(dataset)
    from pipeline.report.build import build_report

    project.show_written([build_report(project.params, project.paths, names)])


@command(app, "pipeline results --dataset brain")
def results(project: Project, dataset: Datasets = None) -> None:
    """README.md with one table and one figure, and CSV files -> results/"""
    names = project.datasets(dataset)
    from pipeline.report.results import write_results

    project.show_written(write_results(project.params, project.paths, names))


@command(app, "pipeline predict --dataset brain scan1.jpg scan2.dcm")
def predict(
    dataset: Dataset,
    images: Annotated[list[Path], typer.Argument(help="New images.")],
    project: ModelProject,
    learner: Annotated[str, typer.Option(help="Which learner.")] = "medfocus",
    view: Annotated[str, typer.Option(help="On which view.")] = "masked",
    out: Annotated[Path, typer.Option(help="Folder of the overlays.")] = Path("predictions"),
) -> None:
    """Class probabilities and a mask overlay for new images."""
    from pipeline.predict import predict_images

    outcome = predict_images(
        dataset,
        images,
        project.params,
        project.paths,
        project.options,
        learner=learner,
        view=view,
        out=out,
        on_result=(lambda line: None) if project.as_json else typer.echo,
    )
    for text in [outcome.to_json()] if project.as_json else outcome.failures():
        typer.echo(text)
    if outcome.failed:
        raise typer.Exit(3)


@command(app, "pipeline status --json")
def status(project: Project) -> None:
    """What the last runs of each dataset did: done, skipped, failed by name; locks in use."""
    from pipeline.engine.record import known_datasets, status_rows, status_text
    from pipeline.io import lock_notes

    rows = status_rows(project.paths, known_datasets(project.paths, project.params.datasets))
    locks = [f"lock: {line}" for line in lock_notes(project.paths.root)]
    project.show(rows, "\n".join([status_text(rows), *locks]))


@command(app, "pipeline verify cache/brain/masks.zarr")
def verify(
    stores: Annotated[list[Path], typer.Argument(help="Mask or feature stores.")],
    as_json: Json = False,
) -> None:
    """Check every row of stores against its checksum and list what is lost."""
    from pipeline.store import verify_store

    found = {str(path): verify_store(path) for path in stores}
    if as_json:
        values = {path: {"ok": one.ok, **asdict(one)} for path, one in found.items()}
        typer.echo(json.dumps(values, indent=2))
    else:
        typer.echo("\n".join(f"{path}: {one.summary()}" for path, one in found.items()))
    if not all(one.ok for one in found.values()):
        raise typer.Exit(3)


@command(app, "pipeline convert cache/brain/masks.zarr")
def convert(
    stores: Annotated[list[Path], typer.Argument(help="Stores of an earlier version.")],
) -> None:
    """Convert stores of an earlier version; nothing is computed again."""
    from pipeline.store import convert_store

    for path in stores:
        typer.echo(f"{path}: {convert_store(path)} rows converted")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that draws a bar on a terminal and is silent elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@command(data_app, "pipeline data add brain --from scans/ --masks scan_masks/ --groups groups.csv")
def add(
    dataset: DatasetName,
    source: Annotated[
        Path, typer.Option("--from", help="Folder ([split/]class/image), CSV or zip.")
    ],
    project: Project,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Ground-truth masks: folder of the same shape, or CSV. Default: x_mask.png next "
            "to x.png."
        ),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV of known groups (path, series, fold, ...).")
    ] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Regular expression; its first group is the patient.")
    ] = None,
    max_rank: Annotated[
        int, typer.Option(min=0, help="Ignore rows of a CSV of masks above this rank.")
    ] = 5,
    on_shared_patient: Annotated[
        str | None,
        typer.Option(help="A patient in two splits: error, drop-train or drop-test."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another manifest.")] = False,
) -> None:
    """Create data_manifests/DATASET.csv; the images are not copied."""
    from pipeline.encode.text import PromptError, prompted_classes, skeleton
    from pipeline.intake import add_dataset

    with progress_bar(f"data add {dataset}") as progress:
        summary = add_dataset(
            dataset,
            source,
            paths=project.paths,
            masks=masks,
            max_rank=max_rank,
            groups=groups,
            patient_regex=patient_regex,
            on_shared_patient=on_shared_patient,
            force=force,
            progress=progress,
        )
    text = summary.text()
    with suppress(PromptError):  # reported by `encode`
        prompted = prompted_classes(project.paths.prompts, dataset) or ()
        if missing := sorted(set(summary.frame["label"]) - set(prompted)):
            text += (
                f"\nnext: in {project.paths.prompts} classes.{dataset} needs {skeleton(missing)}"
            )
    _show_added(project, summary, text)


@command(data_app, "pipeline data refresh brain")
def refresh(dataset: DatasetName, project: Project) -> None:
    """Update the hashes and sizes of a manifest from its files."""
    from pipeline.intake import refresh_dataset

    with progress_bar(f"data refresh {dataset}") as progress:
        summary = refresh_dataset(dataset, paths=project.paths, progress=progress)
    _show_added(project, summary, summary.text())


def _show_added(project: Project, summary: AddSummary, text: str) -> None:
    project.show(summary.to_json(), text)
    if summary.failed:
        raise typer.Exit(3)


@command(data_app, "pipeline data sample --dataset brain --images 160")
def sample(
    project: Project,
    dataset: Datasets = None,
    images: Annotated[int, typer.Option(min=8, help="Images per dataset.")] = 160,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    known_answer: Annotated[
        Literal["lesion", "background"] | None,
        typer.Option(
            help="Instead: one set, known-lesion or known-background, whose class is visible only "
            "there."
        ),
    ] = None,
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
def check(
    dataset: Dataset,
    project: Project,
    against: Annotated[
        str | None, typer.Option(help="Also search this other dataset for copies.")
    ] = None,
) -> None:
    """Check the manifest, then search for copies of images in both train and test.

    Exits 3 when more images cannot be read than audit.max_failed allows.
    """
    from pipeline.audit import across_text, audit_dataset, audit_text, compare_datasets
    from pipeline.encode.text import prompted_classes
    from pipeline.engine.record import RunRecord
    from pipeline.errors import StageFailed
    from pipeline.manifest import read_manifest

    for name in filter(None, [dataset, against]):
        classes = prompted_classes(project.paths.prompts, name)
        read_manifest(project.paths.manifest(name), data=project.paths.data(name), classes=classes)
    failed: StageFailed | None = None
    try:
        summary = audit_dataset(dataset, project.params, project.paths)
    except StageFailed as error:  # what could be compared is written: print it first
        failed = error
        summary = json.loads(project.paths.audit_summary(dataset).read_text(encoding="utf-8"))
    text = [audit_text(summary, str(project.paths.audit_pairs(dataset)))]
    if against:
        pairs = compare_datasets(dataset, against, project.params, project.paths)
        copies, unreadable = pairs.to_dict("records"), pairs.attrs["unreadable"][against]
        other = RunRecord("check", against, total=pairs.attrs["images"][against], failed=unreadable)
        allowed = project.params.audit.max_failed
        if failed is None and other.failed_share > allowed:
            failed = other.too_many_failed(allowed, project.paths.manifest(against))
        summary |= {f"copies_in_{against}": copies, f"unreadable_in_{against}": unreadable}
        text.append(across_text(against, copies, unreadable))
    project.show(summary, "\n".join(text))
    if failed is not None:
        raise failed


@command(data_app, "pipeline data preview --dataset brain --out preview.png")
def preview(
    dataset: Dataset,
    project: Project,
    out: Annotated[Path, typer.Option(help="The contact sheet (PNG).")] = Path("preview.png"),
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 48,
) -> None:
    """A contact sheet of what the models will see, with warnings."""
    from pipeline.preview import preview_dataset

    geometry = project.params.encode.geometry
    warnings = preview_dataset(dataset, project.paths, out, images=images, geometry=geometry)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    project.show_written([out], warnings=list(map(str, warnings)))


@command(splits_app, "pipeline splits export --dataset brain --out splits.csv")
def export(
    dataset: Dataset,
    project: Project,
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("splits.csv"),
) -> None:
    """Write who trains, validates and tests, per protocol, seed and fraction, with hashes."""
    from pipeline.splits import load_split_plan

    plan = load_split_plan(dataset, project.params, project.paths)
    plan.export(out)
    for note in plan.notes if not project.as_json else []:
        typer.echo(f"note: {note}", err=True)
    project.show_written([out], notes=plan.notes)
