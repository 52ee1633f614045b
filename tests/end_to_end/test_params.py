"""Every value of params.yaml reruns the stages that read it, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from tests.site import REPO, STAGES, Site

LEARNER = "medfocus-probe"  # which has the parameters of two others
RECORDER = Path(__file__).with_name("recorder.py")
EXACTLY = "Each value of params.yaml reruns the stages that read it, and no others."

# Which stages read what, besides the report, which shows all; the first match counts.
READERS = {
    "data_root": {"audit", "segment", "prompt_quality", "encode", "evaluate"},
    "profiles.embedded.sam2": {"segment", "prompt_quality"},
    "profiles.embedded.clip": {"encode"},
    "profiles.paper": set(),
    "audit": {"audit"},
    "segment.prompt": {"segment"},
    "segment.max_failed": {"segment"},
    "segment": {"segment", "prompt_quality"},
    "prompt_quality": {"prompt_quality"},
    "encode": {"encode"},
    "splits": {"train"},
    "train": {"train"},
    "learners": {"train"},
    "study.baseline": {"evaluate"},
    "study": set(),
    "evaluate": {"evaluate"},
    "report": set(),
}


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix]
    return [leaf for k, v in tree.items() for leaf in leaves(v, f"{prefix}.{k}" if prefix else k)]


def declared(stage: str, tree: dict) -> set[str]:
    """The values that dvc.yaml lists for a stage; those of a profile without the profile's name."""
    listed = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"][stage]["params"]
    found = set()
    for name in (
        entry.replace("${profile}.", "").replace("${item.learner}", LEARNER) for entry in listed
    ):
        if name.startswith("profiles"):
            found.add(name)
            continue
        value = tree
        for key in name.split("."):
            value = value[key]
        found |= set(leaves(value, name))
    return found


def directly_changed(site: Site, **changes: object) -> set[str]:
    """The stages whose own parameters changed, not those that follow."""
    site.params(datasets=["breast"], **changes)
    with Repo(site.root) as repo:
        return {
            stage.split(":")[-1].split("@")[0]
            for stage, causes in repo.status().items()
            for cause in causes
            if isinstance(cause, dict) and "params.yaml" in cause.get("changed deps", {})
        }


@pytest.mark.promise(EXACTLY)
def test_each_value_reruns_the_stages_that_read_it_and_no_others(site: Site) -> None:
    tree = yaml.safe_load((site.root / "params.yaml").read_text())
    # They change which stages there are, or are those of another profile.
    names = [n for n in leaves(tree) if n not in ("datasets", "profile")]
    assert len(names) > 40
    found = {stage: declared(stage, tree) for stage in STAGES if stage != "report"}
    for name in names:
        readers = next(v for k, v in READERS.items() if name == k or name.startswith(f"{k}."))
        if name.startswith("learners.") and not name.startswith(f"learners.{LEARNER}."):
            continue  # each learner's own stage reads its own section
        as_declared = name.replace("profiles.embedded", "profiles")
        above = {as_declared, as_declared.rpartition(".")[0]}  # a model is declared as a whole
        assert {stage for stage, values in found.items() if values & above} == readers, name
    # That DVC reruns what is declared, by three of them.
    assert directly_changed(site) == {"report"}
    assert directly_changed(site, encode__fill="mean") == {"encode", "report"}
    fill = {"encode__fill": tree["encode"]["fill"]}
    models = {"segment", "prompt_quality", "encode", "report"}
    assert directly_changed(site, profile="paper", **fill) == models


@pytest.mark.promise(EXACTLY)
def test_each_stage_declares_exactly_the_parameters_that_its_code_reads(fresh: Site) -> None:
    # The code reads the views of all protocols at once, as one dictionary.
    tree = yaml.safe_load((fresh.root / "params.yaml").read_text())
    tree["train"]["views"] = None
    every = tree["prompt_quality"]["strategies"] + ["auto"]
    fresh.params(datasets=["breast"], prompt_quality__strategies=every)
    path = fresh.root / "data_manifests/breast.csv"  # without parts, so that a test part is drawn
    path.write_text(path.read_text().replace(",test,", ",,").replace(",train,", ",,"))
    wrong = {}
    for stage in STAGES:
        out = fresh.root / f"{stage}.json"
        options = [] if stage == "report" else ["--dataset", "breast"]
        options += ["--learner", LEARNER] if stage == "train" else []
        options += ["--jobs", "1"] if stage in ("train", "evaluate") else []
        given = {"OUT": str(out), "STAGE": stage, "OPTIONS": options}
        code = f"exec({RECORDER.read_text()!r}, {given!r})"
        running = fresh.begin(first=code)
        assert running.wait() == 0, running.output
        read = set(json.loads(out.read_text()))
        if stage == "train":  # evaluate needs the other learners too
            fresh.stage("train")
        if stage == "report":  # `profile` chooses what is read of `profiles`
            read -= {"profiles.sam2", "profiles.clip"}
        if read != (promised := declared(stage, tree)):
            wrong[stage] = {"not declared": read - promised, "not read": promised - read}
    assert not wrong
