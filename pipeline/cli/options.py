"""Options that several commands share, declared once."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline.config import Params, load_params
from pipeline.errors import ConfigError, ManifestError
from pipeline.paths import Paths


def _jobs_or_all(jobs: int) -> int:
    if jobs < 1 and jobs != -1:
        raise typer.BadParameter(f"{jobs} is neither 1 or more nor -1 (all cores)")
    return jobs


Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Name of the dataset.")]
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a parameter: segment.prompt=auto."),
]
Profile = Annotated[str | None, typer.Option(help="Models: a profile of params.yaml.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Images read and mapped together; several cores share them."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read images.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Compute at most so many images.")]
Only = Annotated[Path | None, typer.Option(help="CSV whose column image_id names the images.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again, replacing another identity.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Jobs = Annotated[int, typer.Option(help="Parallel jobs; -1 for all cores.", callback=_jobs_or_all)]

PARAMS_FILE = Path("params.yaml")


@dataclass(frozen=True)
class Context:
    """The parameters of this run and the files of this project."""

    params: Params
    paths: Paths


def context(
    params_file: Path = PARAMS_FILE, settings: list[str] | None = None, **overrides: Any
) -> Context:
    """Load params.yaml with `--set` and the named flags on top.

    Args:
        params_file: the parameter file; its folder is the project folder.
        settings: texts "dotted.key=value", the value read as YAML.
        overrides: dotted keys with `__` for the dot, e.g. `segment__precision="bf16"`;
            None leaves the file's value.

    Raises:
        ConfigError: a setting has no "=", its value is not YAML, or its key or value is not
            allowed.
    """
    replaced: dict[str, Any] = {}
    for setting in settings or []:
        key, separator, value = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting}: no '='", remedy="write --set KEY=VALUE")
        try:
            replaced[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
            raise ConfigError(
                f"--set {setting}: the value is not YAML ({' '.join(str(error).split())})",
                remedy="write one such as auto, 0.5 or [a, b]",
            ) from None
    replaced |= {k.replace("__", "."): v for k, v in overrides.items() if v is not None}
    params = load_params(params_file, replaced)
    return Context(params, Paths(params_file.parent, params.data_root))


def chosen_datasets(c: Context, named: list[str] | None) -> list[str]:
    """Return the datasets of `--dataset`, those of params.yaml when it is not given.

    Raises:
        ManifestError: one that is named has no manifest; those that have one are listed.
    """
    for name in named or []:
        if not c.paths.manifest(name).is_file():
            raise ManifestError(
                f"there is no dataset {name!r}",
                path=c.paths.manifest(name),
                remedy=f"name one of {', '.join(c.paths.datasets()) or '(none yet)'}, or make it "
                f"with `pipeline data add`",
            )
    return list(dict.fromkeys(named or c.params.datasets))


def read_ids(path: Path | None) -> list[str] | None:
    """Read the column image_id of a CSV (`--only`); None stays None.

    Raises:
        ConfigError: the file cannot be read, is no CSV, or has no such column.
    """
    if path is None:
        return None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            if "image_id" not in (table.fieldnames or []):
                raise ConfigError(
                    "has no column image_id",
                    path=path,
                    remedy="name it in the first line, one id a line below",
                )
            return [row["image_id"] or "" for row in table]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the ids ({error!r})",
            path=path,
            remedy="give a CSV with a column image_id",
        ) from None
