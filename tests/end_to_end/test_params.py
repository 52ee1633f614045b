"""Every leaf of params.yaml reruns the stages that read it, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.repo import Repo

from .conftest import Project

REPO = Path(__file__).resolve().parents[2]
RECORDER = Path(__file__).with_name("recorder.py")

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
    "study.baseline": {"evaluate"},
    "study": set(),
    "evaluate": {"evaluate"},
    "report": set(),
}


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix]
    return [leaf for k, v in tree.items() for leaf in leaves(v, f"{prefix}.{k}" if prefix else k)]


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case list():
            return value[:-1]
        case None:
            return "other"
        case _:
            return f"{value}-other"


def directly_changed(repo: Repo) -> set[str]:
    """The stages whose own params changed, not those that merely follow."""
    return {
        stage.split(":")[-1].split("@")[0]
        for stage, causes in repo.status().items()
        for cause in causes
        if isinstance(cause, dict) and "params.yaml" in cause.get("changed deps", {})
    }


def test_each_leaf_reruns_the_stages_that_read_it_and_no_others(project: Project) -> None:
    path = project.root / "params.yaml"
    original = yaml.safe_load(path.read_text())
    wrong = {}
    names = leaves(original)
    assert len(names) > 40
    for name in names:
        if name in ("datasets", "profile"):
            continue  # they change which stages there are; their own tests are below
        tree = yaml.safe_load(path.read_text())
        *parents, leaf = name.split(".")
        table = tree
        for key in parents:
            table = table[key]
        table[leaf] = changed(table[leaf])
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        with Repo(project.root) as repo:
            found = directly_changed(repo)
        path.write_text(yaml.safe_dump(original, sort_keys=False))
        readers = next(v for k, v in READERS.items() if name == k or name.startswith(f"{k}."))
        readers = readers | {"report"}
        if found != readers:
            wrong[name] = (found, readers)
    assert not wrong


def test_the_profile_reruns_the_stages_with_a_model(project: Project) -> None:
    project.params(profile="paper")
    with Repo(project.root) as repo:
        assert directly_changed(repo) == {"segment", "prompt_quality", "encode", "report"}


def test_a_dataset_less_leaves_the_others_as_they_are(project: Project) -> None:
    project.params(datasets=["breast"])
    with Repo(project.root) as repo:
        assert {s for s in repo.status() if "@" in s} == set()


def declared(stage: str, tree: dict) -> set[str]:
    """The leaves that dvc.yaml lists for a stage; those of a profile without the profile's name."""
    listed = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"][stage]["params"]
    found = set()
    for name in (entry.replace("${profile}.", "") for entry in listed):
        if name.startswith("profiles"):
            found.add(name)
            continue
        value = tree
        for key in name.split("."):
            value = value[key]
        found |= set(leaves(value, name))
    return found


def test_each_stage_declares_exactly_the_parameters_that_its_code_reads(fresh: Project) -> None:
    # The code reads the views of all protocols at once, as one dictionary.
    tree = yaml.safe_load((fresh.root / "params.yaml").read_text())
    tree["train"]["views"] = None
    fresh.params(datasets=["breast"])
    path = fresh.root / "data_manifests/breast.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows["split"] = ""  # so that a test part has to be drawn
    rows.groupby("label").head(12).to_csv(path, index=False)
    wrong = {}
    for stage in ("audit", "segment", "prompt_quality", "encode", "train", "evaluate", "report"):
        out = fresh.root / f"{stage}.json"
        options = [] if stage == "report" else ["--dataset", "breast"]
        options += ["--jobs", "1"] if stage in ("train", "evaluate") else []
        fresh.run("python", str(RECORDER), str(out), stage, *options, PYTHONPATH=str(fresh.root))
        read = set(json.loads(out.read_text()))
        # `profile` chooses what is read of `profiles`, which DVC resolves by itself.
        if stage == "report":
            read -= {"profiles.sam2", "profiles.clip"}
        if read != (promised := declared(stage, tree)):
            wrong[stage] = {"not declared": read - promised, "not read": promised - read}
    assert not wrong
