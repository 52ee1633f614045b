"""Runs a stage as DVC does and writes down which parameters its code reads.

Executed by a process of `tests.warm` with three names set: OUT, the file to write (a JSON list of
dotted names), STAGE and OPTIONS.

Every section of `Params` has a class of its own, so the class of an object gives its name. Reading
a whole section (`model_dump`, for identities and the report) reads all of its values.
"""

# ruff: noqa: F821
from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.cli.options import Project
from pipeline.learners import LearnerParams
from pipeline.paths import Paths

WHOLE = ("model_dump", "model_dump_json", "__iter__", "__eq__", "__hash__", "__repr__")


def sections(cls: type[config.Section], above: str = "") -> dict[type, str]:
    """The dotted name of each section below a section, by class."""
    found = {}
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, config.Section):
            found[field.annotation] = above + name
            found |= sections(field.annotation, f"{above}{name}.")
    return found


NAMES = sections(config.Params)
LEARNER = OPTIONS[OPTIONS.index("--learner") + 1] if "--learner" in OPTIONS else ""

seen: set[str] = set()
replaced: dict[int, tuple[Any, set[str]]] = {}  # what the code itself has set in a copy
running = False


def record(section: config.Section, name: str) -> None:
    """Note that an attribute of a section was asked for."""
    get = object.__getattribute__
    cls = type(section)
    fields = cls.model_fields
    if issubclass(cls, LearnerParams):
        own = dict.fromkeys(n for n in fields if n not in LearnerParams.model_fields)
        labels = {n: f"learners.{LEARNER}.{fields[n].alias or n}" for n in own}
        seen.update(
            labels.values() if name in (*WHOLE, "deciding") else filter(None, [labels.get(name)])
        )
        return
    if cls is config.Params and name == "learners":
        return  # a learner's section is read as an object of its own
    if name in WHOLE:
        for field in fields:
            record(section, field)
            if isinstance(get(section, field), config.Section):
                record(get(section, field), name)
        if cls is config.Params:
            seen.add("profiles")
            for learner, values in get(section, "learners").items():
                seen.update(f"learners.{learner}.{value}" for value in values)
    elif name in fields and name not in replaced.get(id(section), (None, set()))[1]:
        label = fields[name].alias or name
        if cls in NAMES and not isinstance(get(section, name), config.Section):
            seen.add(f"{NAMES[cls]}.{label}")
        elif cls is config.ProfileParams:
            seen.add(f"profiles.{label}")
        elif (
            cls is config.Params
            and name != "profiles"
            and not isinstance(get(section, name), config.Section)
        ):
            seen.add(label)  # of the profiles, what is asked of the chosen one


def asked(section: config.Section, name: str) -> Any:
    """`__getattribute__` of all sections."""
    value = object.__getattribute__(section, name)
    if running:
        record(section, name)
        if name == "model_copy":

            def copy(*, update: dict | None = None, **options: Any) -> Any:
                made = value(update=update, **options)
                before = replaced.get(id(section), (None, set()))[1]
                replaced[id(made)] = made, before | set(update or {})
                return made

            return copy
    return value


def opened(project: Project) -> None:
    """`Project.__post_init__`, whose own checks and copies are not the stage's reading."""
    global running
    of_the_pipeline(project)
    running = True


def data(paths: Paths, dataset: str) -> Path:
    """`Paths.data`: who asks for a dataset's folder reads data_root."""
    seen.add("data_root")
    return folder(paths, dataset)


config.Section.__getattribute__ = asked
of_the_pipeline, Project.__post_init__ = Project.__post_init__, opened
folder, Paths.data = Paths.data, data
sys.argv = [STAGE, *OPTIONS]
try:
    runpy.run_module(f"stages.{STAGE}", run_name="__main__")
finally:
    Path(OUT).write_text(json.dumps(sorted(seen)))
