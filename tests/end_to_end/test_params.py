"""Each stage declares in dvc.yaml exactly the values of params.yaml that its code reads.

Every section of `Params` has a class of its own, so the class of an object gives its name. Dumping
a section, for identities and the report, reads all of its values.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import config
from pipeline.cli import common
from pipeline.learners import LearnerParams
from pipeline.paths import Paths
from tests.site import REPO, STAGES, Site, stage_command

LEARNER = "medfocus-probe"  # which has the parameters of two others
EVERY_LEARNER = set(LearnerParams.model_fields)


def leaves(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted name of each value of a section; models and profiles are one value."""
    if not isinstance(value, dict) or name == "profiles":
        yield name
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}" if name else key)


def sections(cls: type[config.Section], above: str = "") -> Iterator[tuple[type, str]]:
    """Yield the class and the dotted name of each section below a section."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, config.Section):
            yield field.annotation, above + name
            yield from sections(field.annotation, f"{above}{name}.")


def run_and_record(out: str, stage: str, arguments: list[str]) -> None:
    """Run a stage as DVC does; write the names of the parameters that its code reads, as JSON."""
    names = dict(sections(config.Params)) | {config.Params: "", config.ProfileParams: "profiles"}
    seen: set[str] = set()
    running = False

    def note(cls: type[config.Section], name: str, value: Any) -> None:
        above = f"learners.{LEARNER}" if issubclass(cls, LearnerParams) else names.get(cls)
        field = cls.model_fields[name]
        own = above is not None and not (above.startswith("learners.") and name in EVERY_LEARNER)
        if own and (cls is config.ProfileParams or not isinstance(value, config.Section)):
            value = None if cls is config.ProfileParams else value
            seen.update(leaves(value, f"{above}.{field.alias or name}".lstrip(".")))

    def asked(section: config.Section, name: str) -> Any:
        value, cls = object.__getattribute__(section, name), type(section)
        if running and name == "model_dump":
            for field, dumped in value().items():
                note(cls, field, dumped)
        # A learner's section is read as an object of its own, a profile as one of its models.
        elif running and name in cls.model_fields.keys() - {"learners", "profiles"}:
            note(cls, name, value)
        return value

    def opened(project: common.Project) -> None:
        nonlocal running
        open_project(project)  # whose own checks and copies are not the stage's reading
        running = True

    def data(paths: Paths, dataset: str) -> Path:
        seen.add("data_root")
        return data_of(paths, dataset)

    config.Section.__getattribute__ = asked
    open_project, common.Project.__post_init__ = common.Project.__post_init__, opened
    data_of, Paths.data = Paths.data, data
    sys.argv = [stage, *arguments]
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    finally:
        Path(out).write_text(json.dumps(sorted(seen)))


def declared(stage: str, tree: dict[str, Any]) -> set[str]:
    """Return the values that dvc.yaml lists for a stage."""
    listed = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"][stage]["params"]
    found: set[str] = set()
    for name in (name for name in listed if isinstance(name, str)):  # not of prompts.yaml
        name = name.replace("${profile}.", "").replace("${item.learner}", LEARNER)
        model = name.startswith("profiles.")
        found.update(leaves(None if model else reduce(dict.get, name.split("."), tree), name))
    return found


@pytest.mark.promise("Each value of params.yaml reruns the stages that read it, and no others.")
def test_each_stage_declares_exactly_the_parameters_that_its_code_reads(fresh: Site) -> None:
    tree = yaml.safe_load((fresh.root / "params.yaml").read_text())
    every = [*tree["prompt_quality"]["strategies"], "union", "saliency"]
    fresh.params(datasets=["breast"], prompt_quality__strategies=every, segment__prompt="saliency")
    path = fresh.root / "data_manifests/breast.csv"  # without parts, so that a test part is drawn
    path.write_text(path.read_text().replace(",test,", ",,").replace(",train,", ",,"))
    wrong = {}
    for stage in STAGES:
        out = fresh.root / f"{stage}.json"
        arguments = [*stage_command(stage)[1:], *(["--learner", LEARNER] * (stage == "train"))]
        call = f"run_and_record({str(out)!r}, {stage!r}, {arguments!r})"
        fresh.run("", first=f"from {__name__} import run_and_record\n{call}")
        read = set(json.loads(out.read_text()))
        if stage == "train":  # evaluate needs the other learners too
            fresh.stage("train")
        if stage == "report":  # `profile` chooses what is read of `profiles`
            read -= {"profiles.sam2", "profiles.clip"}
        if stage == "prompt_quality":  # asks for the strategies that it judges
            read.discard("segment.prompt")
            read.add("segment.clipseg")  # of a strategy whose weights are not here
        if stage == "train":  # of learners on pixels
            read |= {"data_root", "images.window"}
        if read != (promised := declared(stage, tree)):
            wrong[stage] = {"not declared": read - promised, "not read": promised - read}
    assert not wrong
