"""What commands share: their options, how they print a result, and how they end.

A command takes a dataclass of options as a parameter; `command` gives it an option for each field.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from typer import Argument, Option

from pipeline.config import load_params
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ManifestError, PipelineError
from pipeline.io import read_text_csv
from pipeline.paths import Paths

INTERRUPTED = 130
# Typer may bundle its own click: take the base of its usage errors from a class it exports.
ClickException = typer.BadParameter.__mro__[2]


def _jobs_or_all(jobs: int) -> int:
    if jobs < 1 and jobs != -1:
        raise typer.BadParameter(f"{jobs} is neither 1 or more nor -1 (all cores)")
    return jobs


Dataset = Annotated[str, Option("--dataset", "-d", help="Name of the dataset.")]
Datasets = Annotated[list[str] | None, Option("--dataset", "-d", help="Default: all.")]
DatasetName = Annotated[str, Argument(help="Name of the dataset.")]
Against = Annotated[str | None, Option(help="Find copies in this dataset as well.")]
Where = Literal["lesion", "background"]
Stores = Annotated[list[str], Argument(help="Mask or feature stores.")]
Jobs = Annotated[int, Option(help="Parallel jobs; -1 for all cores.", callback=_jobs_or_all)]
Engine = Annotated[str, Option(help="local, or the workers of dask or ray.")]
Scheduler = Annotated[str | None, Option(help="Address of the Dask or Ray cluster.")]
Force = Annotated[bool, Option("--force", help="Compute again, replacing another identity.")]


@dataclass
class Output:
    """How a command prints its result."""

    as_json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False

    def show(self, values: Any, text: object, *, failed: Any = False) -> None:
        """Print `values` as JSON with `--json`, else `text`; exit 3 if anything `failed`."""
        shown = json.dumps(values, indent=2, ensure_ascii=False) if self.as_json else text
        typer.echo(shown)
        if failed:
            raise typer.Exit(3)

    def show_written(self, paths: list[Path], **more: list[str]) -> None:
        """Print the files that a command wrote, and the lines of `more` to stderr ("warning: ...");
        JSON {"written": [...], **more}."""
        names = [str(path) for path in paths]
        for kind, lines in more.items() if not self.as_json else ():
            for line in lines:
                typer.echo(f"{kind.removesuffix('s')}: {line}", err=True)
        self.show({"written": names, **more}, "\n".join(names))


@dataclass
class Project(Output):
    """The project folder and its parameters, loaded when an object is made.

    Attributes:
        params: params.yaml with `--set` and the named flags on top.
        paths: the files of the project.

    Raises:
        ConfigError: a setting has no "=", its value is not YAML, or its key or value is not
            allowed.
    """

    params_file: Annotated[Path, Option("--params", help="Parameters.")] = Path("params.yaml")
    settings: Annotated[list[str] | None, Option("--set", help="KEY=VALUE, a parameter.")] = None

    profile = precision = None  # as params.yaml has them

    def __post_init__(self) -> None:
        given: dict[str, Any] = {}
        for setting in self.settings or []:
            try:
                key, value = setting.split("=", 1)
                given[key] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError):  # ValueError: no "=", or the date 2024-99-99
                said = f"--set {setting}: has no '=', or the value is not YAML"
                remedy = "write --set KEY=VALUE with a value in YAML such as auto, 0.5 or [a, b]"
                raise ConfigError(said, remedy=remedy) from None
        given |= {"profile": self.profile} if self.profile else {}
        if self.precision:
            given |= {f"{stage}.precision": self.precision for stage in ("segment", "encode")}
        self.params = load_params(self.params_file, given)
        self.paths = Paths(self.params_file.parent, self.params.data_root, self.params.store_root)

    def check_stores(self) -> None:
        """Raise ConfigError if the stores are not where dvc.yaml has them, in cache/."""
        if self.paths.store_root != Paths.store_root:
            remedy = "run `pipeline segment` and `pipeline encode`, or set store_root: cache"
            message = f"DVC keeps stores in cache/, not in store_root: {self.paths.store_root}"
            raise ConfigError(message, path=self.params_file, remedy=remedy)

    def datasets(self, named: list[str] | None) -> list[str]:
        """Return the datasets of `--dataset`, or those of params.yaml if there are none;
        ManifestError, with those that have a manifest, if one has none."""
        for name in named or []:
            path, known = self.paths.manifest(name), self.paths.datasets()
            if not path.is_file():
                remedy = f"use one of {', '.join(known)}, or create it with `pipeline data add`"
                raise ManifestError(f"there is no dataset {name!r}", path=path, remedy=remedy)
        return list(dict.fromkeys(named or self.params.datasets))


@dataclass
class ProfileProject(Project):
    """A project of which a command may load a model, as learners of prompts do."""

    profile: Annotated[str | None, Option(help="Models: a profile of params.yaml.")] = None


@dataclass
class WorkersProject(ProfileProject):
    """A project of which work without a model of its own may be done by the workers of an engine;
    `options` name it."""

    engine: Engine = "local"
    scheduler: Scheduler = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.options = RunOptions(engine=self.engine, scheduler=self.scheduler)
        self.options.knock()


@dataclass
class ModelProject(ProfileProject):
    """A project whose models are run; `options` are those of the run. ManifestError if the file of
    `--only` cannot be read, or has no column image_id."""

    precision: Annotated[str | None, Option(help="auto, fp32 or bf16.")] = None
    device: Annotated[str, Option(help="auto, cpu, cuda or mps.")] = "auto"
    batch_size: Annotated[int | None, Option(min=1, help="Images mapped together.")] = None
    workers: Annotated[int | None, Option(min=1, help="Threads that read images.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {f.name: getattr(self, f.name) for f in fields(RunOptions) if hasattr(self, f.name)}
        if given.get("only") is not None:
            given["only"] = read_text_csv(given["only"]).column("image_id")
        self.options = RunOptions(**given)
        self.options.knock()  # before the code of models is loaded


@dataclass
class StageProject(ModelProject):
    """A project of which a stage is run on the images of a dataset."""

    limit: Annotated[int | None, Option(min=1, help="Compute at most N images.")] = None
    only: Annotated[Path | None, Option(help="CSV: column image_id names the images.")] = None
    force: Force = False

    def run(self, stage: Callable, dataset: str) -> None:
        """Run a stage on a dataset and print its record."""
        record = stage(dataset, self.params, self.paths, self.options)
        self.show(record.to_json(), record.summary())


@dataclass
class EngineProject(StageProject):
    """A project of which a stage may be run by the workers of an engine."""

    engine: Engine = "local"
    scheduler: Scheduler = None
    devices: Annotated[str | None, Option(help="GPUs, a worker each, such as 0,1.")] = None


def command(app: typer.Typer, example: str, name: str | None = None) -> Callable:
    """Register a function as a command, with an example below its help; a parameter that is a
    dataclass becomes an option for each field."""

    def taken(function: Callable) -> Iterable[inspect.Parameter]:
        return inspect.signature(function, eval_str=True).parameters.values()

    def options(function: Callable) -> Iterator[inspect.Parameter]:
        for parameter in taken(function):
            if is_dataclass(parameter.annotation):
                yield from options(parameter.annotation)
            else:
                yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        groups = {p.name: p.annotation for p in taken(function) if is_dataclass(p.annotation)}

        @functools.wraps(function)
        def call(**values: Any) -> None:
            for group, kind in groups.items():
                values[group] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
            function(**values)

        call.__signature__ = inspect.Signature(list(options(function)))
        call.__annotations__ = {p.name: p.annotation for p in options(function)}
        app.command(name, epilog=f"Example: {example}")(call)
        return function

    return register


def guarded(run: Callable[..., Any]) -> None:
    """Call `run`; turn errors that a user can fix into one line on stderr and an exit code.

    SIGTERM (docker stop, Slurm, timeout) ends it as Ctrl-C does; stages replace this handler by
    that of `pipeline.engine.run.interrupts` while they run.

    Exit codes: 0 success, 1 an unexpected error (with its traceback), 2 bad input, 3 a stage with
    more failed images than allowed or a learner without a successful fit, 130 interrupted by
    Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("botocore", "aiobotocore"):  # which tell where they found credentials
        logging.getLogger(library).setLevel(logging.WARNING)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        result = run(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (PipelineError, ClickException, typer.Exit) as error:
        if isinstance(error, PipelineError):
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, ClickException):
            error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output (head, less) has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:  # typer itself may turn Ctrl-C into an exit with this code
        said = "interrupted - what was computed is kept; run the same command again to continue"
        print(said, file=sys.stderr)
        # A loader thread that still reads a file cannot be stopped, and Python would wait for it.
        if any(thread.name.startswith("load") for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
    sys.exit(code)


def _stop(number: int, frame: object) -> None:
    # `timeout` sends two: the second would interrupt the writing of finished rows.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def stage(run: Callable[..., None]) -> None:
    """Run the module of a DVC stage; its command-line options are the parameters of `run`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    guarded(app)
