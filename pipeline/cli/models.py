"""`pipeline models ...` and `pipeline doctor`: weights, and whether a run can begin."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from pipeline.cli.common import ModelProject, Project, command

models_app = typer.Typer(help="Weights: list, fetch, check, pack, unpack.", no_args_is_help=True)
Names = Annotated[list[str] | None, Argument(help="Of `pipeline models list`.")]


@command(models_app, "pipeline models list sam2.1_hiera_large", name="list")
def list_models(project: Project, names: Names = None) -> None:
    """Published models: size, whether it is here, whether its hash is pinned, licence. With names:
    the line for params.yaml, and where each file comes from and goes."""
    from pipeline.models.catalogue import catalogue, human, published

    root, chosen = project.paths.root, [published(n) for n in names or catalogue()]
    rows = [
        (m.name, human(m.files[0].size), m.state(root), m.files[0].wanted(root)[1], m.licence)
        for m in chosen
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for model, row in zip(chosen, rows, strict=True):
        lines.append("  ".join(map(str.ljust, row, widths)).rstrip())
        if names:
            lines += [f"  {model.line}", *(f"  {f.place}  <-  {f.url}" for f in model.files)]
    values = [asdict(m) | {"state": m.state(root), "line": m.line} for m in chosen]
    project.show(values, "\n".join(lines))


@command(models_app, "pipeline models fetch sam2.1_hiera_large")
def fetch(project: Project, names: Annotated[list[str], Argument(help="Which ones.")]) -> None:
    """Download models into checkpoints/; an interrupted download continues."""
    from pipeline.models.catalogue import published
    from pipeline.models.fetch import fetch as fetch_files

    for model in [published(name) for name in names]:
        for line in fetch_files(model, project.paths.root):
            typer.echo(line, err=project.as_json)
        typer.echo(f"in a profile of params.yaml: {model.line}", err=project.as_json)


@command(models_app, "pipeline models check sam2.1_hiera_large")
def check(project: Project, names: Names = None) -> None:
    """Read the files of models and compare their hashes; default: all that are here."""
    from pipeline.errors import ModelError
    from pipeline.models.catalogue import catalogue, published

    root, found, failed = project.paths.root, {}, False
    here = [name for name, model in catalogue().items() if model.state(root) != "missing"]
    for model in [published(name) for name in names or here]:
        for file in model.files:
            try:
                found[file.place] = file.check(root, f"run `pipeline models fetch {model.name}`")
            except ModelError as error:
                found[file.place], failed = error.with_remedy, True
    text = "\n".join(f"{place}: {words}" for place, words in found.items())
    project.show(found, text or "no published model is here", failed=failed)


@command(models_app, "pipeline models pack --profile medsam2 --out /media/usb/medsam2")
def pack(project: ModelProject, out: Annotated[Path, Option(help="The folder to make.")]) -> None:
    """One folder with the weights, configurations and tokenizer of a profile, tried by loading."""
    from pipeline.models.pack import pack as pack_models

    places = pack_models(project.params, out)
    project.show_written([out, *(out / place for place in places)])


@command(models_app, "pipeline models unpack /media/usb/medsam2")
def unpack(project: Project, packed: Annotated[Path, Argument(help="Of `pack`.")]) -> None:
    """Put packed models into checkpoints/, once their hashes are right; prints their profile."""
    from pipeline.models.pack import unpack as unpack_models

    for line in unpack_models(packed, project.paths.root):
        typer.echo(line)


def doctor(
    project: ModelProject,
    dataset: Annotated[str | None, Option("--dataset", "-d", help="To try ten images of.")] = None,
) -> None:
    """Whether a long run can begin: versions, device, precision, memory, disk, rate and time."""
    from pipeline.doctor import examine

    if dataset is not None:
        project.datasets([dataset])
    found = []
    for finding in examine(project.params, project.paths, project.options, dataset):
        found.append(finding)
        if not project.as_json:
            typer.echo(finding.line())
    failed = any(finding.status == "problem" for finding in found)
    if project.as_json:
        project.show([asdict(finding) for finding in found], "", failed=failed)
    if failed:
        raise typer.Exit(3)
