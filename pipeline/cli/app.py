"""The commands, in the order the data flows.

Each checks its options before it imports what it runs: torch alone takes seconds to load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.data import app as data_app
from pipeline.cli.data import splits_app
from pipeline.cli.look import app as look_app
from pipeline.cli.running import say_written

app = typer.Typer(
    name="pipeline",
    help="Images -> SAM2 masks -> CLIP features -> few-shot learners -> report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.add_typer(splits_app, name="splits")


def say(record, as_json: bool) -> None:
    """Print a run record: one line for people, JSON for scripts."""
    typer.echo(json.dumps(record.to_json(), indent=2) if as_json else record.summary())


@app.command(epilog="Example: pipeline audit --dataset brain")
def audit(
    dataset: o.Dataset,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Find copies of images that straddle train and test -> cache/DATASET/audit.parquet"""
    c = o.context(params_file, settings)

    from pipeline.audit import audit_dataset, audit_text

    summary = audit_dataset(dataset, c.params, c.paths)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        typer.echo(audit_text(summary, str(c.paths.audit_pairs(dataset))))


@app.command(epilog="Example: pipeline segment --dataset brain --set segment.prompt=auto")
def segment(
    dataset: o.Dataset,
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    precision: o.Precision = None,
    profile: o.Profile = None,
    limit: o.Limit = None,
    only: o.Only = None,
    force: o.Force = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Stage 1: m = SAM2(x) for every image -> cache/DATASET/masks.zarr"""
    c = o.context(params_file, settings, profile=profile, segment__precision=precision)
    ids = o.read_ids(only)

    from pipeline.segment import segment_dataset

    record = segment_dataset(
        dataset,
        c.params,
        c.paths,
        device=device,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        only=ids,
        force=force,
    )
    say(record, as_json)


@app.command(
    "prompt-quality", epilog="Example: pipeline prompt-quality --dataset brain --images 300"
)
def prompt_quality(
    dataset: o.Dataset,
    images: Annotated[
        int | None, typer.Option(min=0, help="Size of the sample; 0 = all with a mask.")
    ] = None,
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    precision: o.Precision = None,
    profile: o.Profile = None,
    limit: o.Limit = None,
    only: o.Only = None,
    force: o.Force = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Every prompt strategy against ground truth -> cache/DATASET/prompt_quality.parquet"""
    sizes = {"prompt_quality__images": images, "prompt_quality__phantoms": images}
    c = o.context(params_file, settings, profile=profile, segment__precision=precision, **sizes)
    ids = o.read_ids(only)

    from pipeline.prompt_quality import judge_prompts

    record = judge_prompts(
        dataset,
        c.params,
        c.paths,
        device=device,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        only=ids,
        force=force,
    )
    say(record, as_json)


@app.command(epilog="Example: pipeline encode --dataset brain --batch-size 64")
def encode(
    dataset: o.Dataset,
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    precision: o.Precision = None,
    profile: o.Profile = None,
    limit: o.Limit = None,
    only: o.Only = None,
    force: o.Force = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Stage 2: I = E_v(x * m) and T = E_t(t) -> cache/DATASET/features.zarr"""
    c = o.context(params_file, settings, profile=profile, encode__precision=precision)
    ids = o.read_ids(only)

    from pipeline.encode import encode_dataset

    record = encode_dataset(
        dataset,
        c.params,
        c.paths,
        device=device,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        only=ids,
        force=force,
    )
    say(record, as_json)


@app.command(epilog="Example: pipeline train --dataset brain --learner medfocus --jobs 2")
def train(
    dataset: o.Dataset,
    learner: Annotated[
        list[str] | None, typer.Option(help="Name of a learner. Default: all of params.yaml.")
    ] = None,
    jobs: o.Jobs = -1,
    force: o.Force = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Fit learners: protocol x view x fraction x seed -> cache/DATASET/runs/LEARNER/"""
    c = o.context(params_file, settings)

    from pipeline.learners.train import train_dataset

    records = train_dataset(dataset, c.params, c.paths, learner, jobs=jobs, force=force)
    if as_json:
        typer.echo(json.dumps([record.to_json() for record in records], indent=2))
    else:
        typer.echo("\n".join(record.summary() for record in records))


@app.command(epilog="Example: pipeline evaluate --dataset brain --compare masked whole")
def evaluate(
    dataset: o.Dataset,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two views, two heads or two HEAD/VIEW: paired differences in accuracy, balanced "
            "accuracy, macro-F1 and macro-AUROC. p_holm: Holm over all rows."
        ),
    ] = None,
    jobs: o.Jobs = -1,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Metrics with intervals, per seed and fraction -> cache/DATASET/metrics.json"""
    c = o.context(params_file, settings)

    from pipeline.evaluate import compare_runs, evaluate_dataset

    if compare:
        from pipeline.evaluate.compare import comparison_text

        table = compare_runs(dataset, c.params, c.paths, *compare)
        typer.echo(table.to_json(orient="records") if as_json else comparison_text(table))
        return
    metrics = evaluate_dataset(dataset, c.params, c.paths, jobs=jobs)
    typer.echo(json.dumps(metrics, indent=2) if as_json else c.paths.metrics(dataset))


@app.command(epilog="Example: pipeline report --dataset brain --dataset lung")
def report(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", help="Default: all of params.yaml.")
    ] = None,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """One self-contained page: tables, plots, overlays -> report/index.html"""
    c = o.context(params_file, settings)
    names = o.chosen_datasets(c, dataset)

    from pipeline.report.build import build_report

    say_written([build_report(c.params, c.paths, names)], as_json)


@app.command(epilog="Example: pipeline results --dataset brain")
def results(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", help="Default: all of params.yaml.")
    ] = None,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """The same figures as Markdown and CSV -> results/, README.md telling of all of params.yaml"""
    c = o.context(params_file, settings)
    names = o.chosen_datasets(c, dataset)

    from pipeline.report.results import write_results

    say_written(write_results(c.params, c.paths, names), as_json)


@app.command(epilog="Example: pipeline predict --dataset brain scan1.jpg scan2.dcm")
def predict(
    dataset: o.Dataset,
    images: Annotated[list[Path], typer.Argument(help="New images.")],
    learner: Annotated[str, typer.Option(help="Name of a trained learner.")] = "medfocus",
    view: Annotated[str, typer.Option(help="On which view.")] = "masked",
    out: Annotated[Path, typer.Option(help="Folder of the overlays.")] = Path("predictions"),
    device: o.Device = "auto",
    batch_size: o.BatchSize = None,
    workers: o.Workers = None,
    precision: o.Precision = None,
    profile: o.Profile = None,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Class probabilities and a mask overlay for new images."""
    both = {"segment__precision": precision, "encode__precision": precision}
    c = o.context(params_file, settings, profile=profile, **both)

    from pipeline.predict import predict_images

    outcome = predict_images(
        dataset,
        images,
        c.params,
        c.paths,
        learner=learner,
        view=view,
        out=out,
        device=device,
        batch_size=batch_size,
        workers=workers,
        say=(lambda line: None) if as_json else typer.echo,
    )
    for text in [outcome.to_json()] if as_json else outcome.failures():
        typer.echo(text)
    if outcome.failed:
        raise typer.Exit(3)


# Commands of the top level, which help lists last.
app.registered_commands += look_app.registered_commands
