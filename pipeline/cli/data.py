"""`pipeline data ...` and `pipeline splits ...`: from a folder of images to a checked manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli import options as o
from pipeline.cli.running import say_written

if TYPE_CHECKING:
    from pipeline.intake import AddSummary
    from pipeline.paths import Paths

app = typer.Typer(help="Add, check and preview datasets.", no_args_is_help=True)
splits_app = typer.Typer(help="Train, validation and test parts.", no_args_is_help=True)


def finish(summary: AddSummary, as_json: bool, then: str = "") -> None:
    """Print what was added, and to a person what comes next; exit 3 when a file cannot be read."""
    text = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)
    typer.echo(text if as_json else "\n".join(filter(None, [summary.text(), then])))
    if summary.failed:
        raise typer.Exit(3)


def _without_prompt(paths: Paths, summary: AddSummary) -> str:
    """Say which classes have no prompt yet, and what to write for them."""
    from pipeline.encode.text import PromptError, prompted_classes, skeleton

    try:
        known = set(prompted_classes(paths.prompts, summary.dataset) or ())
    except PromptError:  # of which `encode` tells
        return ""
    labels = {label for counts in summary.counts.values() for label in counts}
    lacking = sorted(labels - known)
    if not lacking:
        return ""
    return f"next: in {paths.prompts} classes.{summary.dataset} needs {skeleton(lacking)}"


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that draws a bar on a terminal and is silent elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command(
    epilog="Example: pipeline data add brain --from scans/ --masks scan_masks/ --groups groups.csv"
)
def add(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    source: Annotated[
        Path, typer.Option("--from", help="Folder ([split/]class/image), CSV or zip.")
    ],
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Ground-truth masks: folder of the same shape, or CSV. Default: x_mask.png beside "
            "x.png."
        ),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV of known groups (path, series, fold, ...).")
    ] = None,
    patient_regex: Annotated[
        str | None, typer.Option(help="Regular expression; its first group is the patient.")
    ] = None,
    max_rank: Annotated[
        int, typer.Option(min=0, help="Of a CSV of masks, leave out rows above this rank.")
    ] = 5,
    on_straddle: Annotated[
        str | None,
        typer.Option(help="A patient in two splits: error, drop-train or drop-test."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another manifest.")] = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    as_json: o.Json = False,
) -> None:
    """Make data_manifests/DATASET.csv; the images stay where they are."""
    from pipeline.intake import add_dataset

    c = o.context(params_file)
    with progress_bar(f"data add {dataset}") as progress:
        summary = add_dataset(
            dataset,
            source,
            paths=c.paths,
            masks=masks,
            max_rank=max_rank,
            groups=groups,
            patient_regex=patient_regex,
            on_straddle=on_straddle,
            force=force,
            progress=progress,
        )
    finish(summary, as_json, _without_prompt(c.paths, summary))


@app.command(epilog="Example: pipeline data refresh brain")
def refresh(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset.")],
    params_file: o.ParamsFile = o.PARAMS_FILE,
    as_json: o.Json = False,
) -> None:
    """Bring the hashes and sizes of a manifest up to date with its files."""
    from pipeline.intake import refresh_dataset

    c = o.context(params_file)
    with progress_bar(f"data refresh {dataset}") as progress:
        summary = refresh_dataset(dataset, paths=c.paths, progress=progress)
    finish(summary, as_json)


@app.command(epilog="Example: pipeline data sample --dataset brain --images 160")
def sample(
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", "-d", help="Default: all of params.yaml.")
    ] = None,
    images: Annotated[int, typer.Option(min=8, help="Images per dataset.")] = 160,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    known_answer: Annotated[
        Literal["lesion", "background"] | None,
        typer.Option(
            help="Instead: one set, known-lesion or known-background, whose class shows only there."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace real images' manifest.")] = False,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    as_json: o.Json = False,
) -> None:
    """Draw synthetic phantoms of the four tasks, with ground-truth masks."""
    from pipeline.phantoms import make_known_answer, make_sample

    c = o.context(params_file)
    if known_answer:
        if dataset:
            raise typer.BadParameter("--known-answer makes a set of its own: leave out --dataset")
        made = make_known_answer(
            c.paths, f"known-{known_answer}", known_answer, n=images, seed=seed, force=force
        )
        say_written([made.manifest], as_json)
        return
    names = tuple(dataset or c.params.datasets)
    say_written(make_sample(c.paths, names, n=images, seed=seed, force=force), as_json)


@app.command(epilog="Example: pipeline data check --dataset brain")
def check(
    dataset: o.Dataset,
    against: Annotated[
        str | None, typer.Option(help="Also look for copies in this other dataset.")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="First join known groups (CSV: path, series, fold) to the manifest."),
    ] = None,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Check the manifest, then look for copies that straddle train and test.

    Exits 3 when more images cannot be read than audit.max_failed allows.
    """
    from pipeline.audit import across_text, audit_dataset, audit_text, compare_datasets
    from pipeline.encode.text import prompted_classes
    from pipeline.engine import RunRecord
    from pipeline.errors import StageFailed
    from pipeline.intake import group_dataset
    from pipeline.manifest import read_manifest

    c = o.context(params_file, settings)
    for name in [dataset, *([against] if against else [])]:
        read_manifest(
            c.paths.manifest(name),
            data=c.paths.data(name),
            check_files=True,
            classes=prompted_classes(c.paths.prompts, name),
        )
    notes = group_dataset(dataset, groups, paths=c.paths) if groups else []
    failed: StageFailed | None = None
    try:
        summary = audit_dataset(dataset, c.params, c.paths)
    except StageFailed as error:  # what could be compared is written: tell it first
        failed = error
        summary = json.loads(c.paths.audit_summary(dataset).read_text(encoding="utf-8"))
    across: list[dict[str, Any]] = []
    unreadable: dict[str, str] = {}
    if against:
        pairs = compare_datasets(dataset, against, c.params, c.paths)
        across, unreadable = pairs.to_dict("records"), pairs.attrs["unreadable"][against]
        other = RunRecord("check", against, total=pairs.attrs["images"][against], failed=unreadable)
        allowed = c.params.audit.max_failed
        if failed is None and other.failed_share > allowed:
            failed = other.too_many_failed(allowed, c.paths.manifest(against))
    if as_json:
        if against:
            summary |= {f"copies_in_{against}": across, f"unreadable_in_{against}": unreadable}
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        for note in notes:
            typer.echo(note)
        typer.echo(audit_text(summary, str(c.paths.audit_pairs(dataset))))
        if against:
            typer.echo(across_text(against, across, unreadable))
    if failed is not None:
        raise failed


@app.command(epilog="Example: pipeline data preview --dataset brain --out preview.png")
def preview(
    dataset: o.Dataset,
    out: Annotated[Path, typer.Option(help="The contact sheet (PNG).")] = Path("preview.png"),
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 48,
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """A contact sheet of what the models will see, with warnings."""
    from pipeline.preview import preview_dataset

    c = o.context(params_file, settings)
    warnings = preview_dataset(
        dataset, c.paths, out, images=images, geometry=c.params.encode.geometry
    )
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    say_written([out], as_json, warnings=list(map(str, warnings)))


@splits_app.command(epilog="Example: pipeline splits export --dataset brain --out splits.csv")
def export(
    dataset: o.Dataset,
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("splits.csv"),
    params_file: o.ParamsFile = o.PARAMS_FILE,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Write who trains, validates and tests, per protocol, seed and fraction, with hashes."""
    from pipeline.splits import load_split_plan

    c = o.context(params_file, settings)
    plan = load_split_plan(dataset, c.params, c.paths)
    plan.export(out)
    if not as_json:
        for note in plan.notes:
            typer.echo(f"note: {note}", err=True)
    say_written([out], as_json, notes=plan.notes)
