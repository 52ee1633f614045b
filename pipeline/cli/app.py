"""The commands, in the order of the data flow.

Each checks its options before it imports what it runs: loading torch alone takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.data import app as data_app
from pipeline.cli.data import splits_app
from pipeline.cli.options import (
    Dataset,
    Datasets,
    Force,
    Jobs,
    Json,
    ModelFlags,
    ModelProject,
    Project,
    RunFlags,
    chosen_datasets,
    command,
)

app = typer.Typer(
    name="pipeline",
    help="Images -> SAM2 masks -> CLIP features -> few-shot learners -> report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.add_typer(splits_app, name="splits")


@command(app, "pipeline audit --dataset brain")
def audit(dataset: Dataset, project: Project) -> None:
    """Find copies of images in both train and test -> cache/DATASET/audit.parquet"""
    c = project.open()

    from pipeline.audit import audit_dataset, audit_text

    summary = audit_dataset(dataset, c.params, c.paths)
    project.show(summary, audit_text(summary, str(c.paths.audit_pairs(dataset))))


@command(app, "pipeline segment --dataset brain --set segment.prompt=auto")
def segment(dataset: Dataset, run: RunFlags, project: ModelProject) -> None:
    """Stage 1: m = SAM2(x) for every image -> cache/DATASET/masks.zarr"""
    c, options = project.open(), run.options()

    from pipeline.segment import segment_dataset

    record = segment_dataset(dataset, c.params, c.paths, options)
    project.show(record.to_json(), record.summary())


@command(app, "pipeline prompt-quality --dataset brain --images 300", name="prompt-quality")
def prompt_quality(
    dataset: Dataset,
    run: RunFlags,
    project: ModelProject,
    images: Annotated[
        int | None, typer.Option(min=0, help="Size of the sample; 0 = all with a mask.")
    ] = None,
) -> None:
    """Every prompt strategy against ground truth -> cache/DATASET/prompt_quality.parquet"""
    c = project.open(prompt_quality__images=images, prompt_quality__phantoms=images)
    options = run.options()

    from pipeline.segment import measure_prompts

    record = measure_prompts(dataset, c.params, c.paths, options)
    project.show(record.to_json(), record.summary())


@command(app, "pipeline encode --dataset brain --batch-size 64")
def encode(dataset: Dataset, run: RunFlags, project: ModelProject) -> None:
    """Stage 2: I = E_v(x * m) and T = E_t(t) -> cache/DATASET/features.zarr"""
    c, options = project.open(), run.options()

    from pipeline.encode import encode_dataset

    record = encode_dataset(dataset, c.params, c.paths, options)
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
    c = project.open()

    from pipeline.learners.train import train_dataset

    records = train_dataset(dataset, c.params, c.paths, learner, jobs=jobs, force=force)
    shown = "\n".join(record.summary() for record in records)
    project.show([record.to_json() for record in records], shown)


@command(app, "pipeline evaluate --dataset brain --compare masked whole")
def evaluate(
    dataset: Dataset,
    project: Project,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two views, two learners or two LEARNER/VIEW: paired differences in accuracy, "
            "balanced accuracy, macro-F1 and macro-AUROC. p_holm: Holm over all rows."
        ),
    ] = None,
    jobs: Jobs = -1,
) -> None:
    """Metrics with intervals, per seed and fraction -> cache/DATASET/metrics.json"""
    c = project.open()

    from pipeline.evaluate import compare_runs, evaluate_dataset

    if compare:
        from pipeline.evaluate.compare import comparison_text

        table = compare_runs(dataset, c.params, c.paths, *compare)
        project.show(json.loads(table.to_json(orient="records")), comparison_text(table))
        return
    metrics = evaluate_dataset(dataset, c.params, c.paths, jobs=jobs)
    project.show(metrics, c.paths.metrics(dataset))


@command(app, "pipeline report --dataset brain --dataset lung")
def report(project: Project, dataset: Datasets = None) -> None:
    """One self-contained page: tables, plots, overlays -> report/index.html"""
    c = project.open()
    names = chosen_datasets(c, dataset)

    from pipeline.report.build import build_report

    project.show_written([build_report(c.params, c.paths, names)])


@command(app, "pipeline results --dataset brain")
def results(project: Project, dataset: Datasets = None) -> None:
    """README.md with one table and one figure, and CSV files -> results/"""
    c = project.open()
    names = chosen_datasets(c, dataset)

    from pipeline.report.results import write_results

    project.show_written(write_results(c.params, c.paths, names))


@command(app, "pipeline predict --dataset brain scan1.jpg scan2.dcm")
def predict(
    dataset: Dataset,
    images: Annotated[list[Path], typer.Argument(help="New images.")],
    run: ModelFlags,
    project: ModelProject,
    learner: Annotated[str, typer.Option(help="Which learner.")] = "medfocus",
    view: Annotated[str, typer.Option(help="On which view.")] = "masked",
    out: Annotated[Path, typer.Option(help="Folder of the overlays.")] = Path("predictions"),
) -> None:
    """Class probabilities and a mask overlay for new images."""
    c, options = project.open(), run.options()

    from pipeline.predict import predict_images

    outcome = predict_images(
        dataset,
        images,
        c.params,
        c.paths,
        options,
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
    c = project.open()

    from pipeline.engine.status import known_datasets, status_rows, status_text
    from pipeline.io import lock_notes

    rows = status_rows(c.paths, known_datasets(c.paths, c.params.datasets))
    locks = [f"lock: {line}" for line in lock_notes(c.paths.root)]
    project.show(rows, "\n".join([status_text(rows), *locks]))


@command(app, "pipeline verify cache/brain/masks.zarr")
def verify(
    stores: Annotated[list[Path], typer.Argument(help="Mask or feature stores.")],
    as_json: Json = False,
) -> None:
    """Check every row of stores against its checksum and list what is lost."""
    from pipeline.store import verify_store

    reports = {str(path): verify_store(path) for path in stores}
    if as_json:
        typer.echo(json.dumps({path: found.to_json() for path, found in reports.items()}, indent=2))
    else:
        for path, found in reports.items():
            typer.echo(f"{path}: {found.summary()}")
    if not all(found.ok for found in reports.values()):
        raise typer.Exit(3)


@command(app, "pipeline convert cache/brain/masks.zarr")
def convert(
    stores: Annotated[list[Path], typer.Argument(help="Stores of an earlier version.")],
) -> None:
    """Convert stores of an earlier version; nothing is computed again."""
    from pipeline.store import convert_store

    for path in stores:
        typer.echo(f"{path}: {convert_store(path)} rows converted")
