"""Options that commands share: a command takes one of these dataclasses as a parameter, and
`command` gives it an option for each field."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
import yaml

from pipeline.config import load_params
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ManifestError
from pipeline.io import read_text_csv
from pipeline.paths import Paths


def _jobs_or_all(jobs: int) -> int:
    if jobs < 1 and jobs != -1:
        raise typer.BadParameter(f"{jobs} is neither 1 or more nor -1 (all cores)")
    return jobs


Dataset = Annotated[str, typer.Option("--dataset", "-d", help="Name of the dataset.")]
Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", "-d", help="Default: all of params.yaml.")
]
DatasetName = Annotated[str, typer.Argument(help="Name of the dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Jobs = Annotated[int, typer.Option(help="Parallel jobs; -1 for all cores.", callback=_jobs_or_all)]
Force = Annotated[bool, typer.Option("--force", help="Compute again, replacing another identity.")]


@dataclass
class Project:
    """The project folder and its parameters, loaded when an object is made, and how results are
    printed.

    Attributes:
        params: params.yaml with `--set` and the named flags on top.
        paths: the files of the project.

    Raises:
        ConfigError: a setting has no "=", its value is not YAML, or its key or value is not
            allowed.
    """

    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path(
        "params.yaml"
    )
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter: segment.prompt=auto."),
    ] = None
    as_json: Json = False

    def __post_init__(self) -> None:
        given: dict[str, Any] = {}
        for setting in self.settings or []:
            try:
                key, value = setting.split("=", 1)
                given[key] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError):  # ValueError: no "=", or the date 2024-99-99
                raise ConfigError(
                    f"--set {setting}: has no '=', or the value is not YAML",
                    remedy="write --set KEY=VALUE with a value in YAML such as auto, 0.5 or [a, b]",
                ) from None
        self.params = load_params(self.params_file, given | self.named())
        self.paths = Paths(self.params_file.parent, self.params.data_root)

    def named(self) -> dict[str, Any]:
        """Return the parameters that have an option of their own, by dotted key."""
        return {}

    def datasets(self, named: list[str] | None) -> list[str]:
        """Return the datasets of `--dataset`, or those of params.yaml if there are none.

        Raises:
            ManifestError: a dataset has no manifest; those that have one are listed.
        """
        for name in named or []:
            if not self.paths.manifest(name).is_file():
                raise ManifestError(
                    f"there is no dataset {name!r}",
                    path=self.paths.manifest(name),
                    remedy=f"use one of {', '.join(self.paths.datasets()) or '(none yet)'}, or "
                    "create it with `pipeline data add`",
                )
        return list(dict.fromkeys(named or self.params.datasets))

    def show(self, values: Any, text: object) -> None:
        """Print `values` as JSON with `--json`, else `text`."""
        shown = json.dumps(values, indent=2, ensure_ascii=False) if self.as_json else text
        typer.echo(shown)

    def show_written(self, paths: list[Path], **more: Any) -> None:
        """Print the files that a command wrote, one per line; JSON {"written": [...], **more}."""
        names = [str(path) for path in paths]
        self.show({"written": names, **more}, "\n".join(names))


@dataclass
class ModelProject(Project):
    """A project whose models are run; `options` are those of the run."""

    profile: Annotated[str | None, typer.Option(help="Models: a profile of params.yaml.")] = None
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images read and mapped together; several cores share them."),
    ] = None
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that read images.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = {field.name for field in fields(RunOptions)} & {f.name for f in fields(self)}
        self.options = RunOptions(**{name: getattr(self, name) for name in names})

    def named(self) -> dict[str, Any]:
        """Return the profile and precision, if they are given."""
        of_both = dict.fromkeys(("segment.precision", "encode.precision"), self.precision)
        given = {"profile": self.profile} | of_both
        return {key: value for key, value in given.items() if value is not None}


@dataclass
class StageProject(ModelProject):
    """A project of which a stage is run on the images of a dataset.

    Raises:
        ManifestError: the file of `--only` cannot be read, or has no column image_id.
    """

    limit: Annotated[int | None, typer.Option(min=1, help="Compute at most N images.")] = None
    only: Annotated[
        Path | None, typer.Option(help="CSV whose column image_id names the images.")
    ] = None
    force: Force = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.only is not None:
            images = read_text_csv(self.only).column("image_id")
            self.options = replace(self.options, only=images)


def command(app: typer.Typer, example: str, name: str | None = None) -> Callable:
    """Register a function as a command; a parameter that is a dataclass becomes its fields.

    Args:
        app: the command is added to it.
        example: shown below the help.
        name: of the command; default that of the function.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        groups = {group: kind for group, kind in hints.items() if is_dataclass(kind)}
        only = inspect.Parameter.KEYWORD_ONLY
        options = [
            parameter.replace(kind=only, annotation=hints[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name not in groups
        ]
        for kind in groups.values():
            types = get_type_hints(kind, include_extras=True)
            options += [
                inspect.Parameter(f.name, only, default=f.default, annotation=types[f.name])
                for f in fields(kind)
            ]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for group, kind in groups.items():
                values[group] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
            function(**values)

        call.__signature__ = inspect.Signature(options)
        call.__annotations__ = {p.name: p.annotation for p in options}
        app.command(name, epilog=f"Example: {example}")(call)
        return function

    return register
