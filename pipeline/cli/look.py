"""Commands that look at what lies in the cache and change nothing: status and verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as o

app = typer.Typer()


@app.command(epilog="Example: pipeline status --json")
def status(
    params_file: o.ParamsFile = o.PARAMS_FILE, as_json: o.Json = False, settings: o.Set = None
) -> None:
    """What each dataset's last runs did: done, skipped, failed by name; who holds which lock."""
    c = o.context(params_file, settings)

    from pipeline.engine.status import known_datasets, status_rows, status_text
    from pipeline.io import lock_notes

    names = known_datasets(c.paths, c.params.datasets)
    if as_json:
        typer.echo(json.dumps(status_rows(c.paths, names), indent=2))
    else:
        typer.echo(status_text(c.paths, names))
        for line in lock_notes(c.paths.root):
            typer.echo(f"lock: {line}")


@app.command(epilog="Example: pipeline verify cache/brain/masks.zarr")
def verify(
    stores: Annotated[list[Path], typer.Argument(help="Mask or feature stores.")],
    as_json: o.Json = False,
) -> None:
    """Walk stores, check every row against its checksum, name what is lost."""
    from pipeline.stores import verify_store

    reports = {str(path): verify_store(path) for path in stores}
    if as_json:
        typer.echo(json.dumps({k: r.to_json() for k, r in reports.items()}, indent=2))
    else:
        for path, found in reports.items():
            typer.echo(f"{path}: {found.summary()}")
    if not all(found.ok for found in reports.values()):
        raise typer.Exit(3)
