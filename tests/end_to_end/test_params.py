"""Every leaf of params.yaml reruns the stages that read it, and no others."""

from __future__ import annotations

from typing import Any

import yaml
from dvc.repo import Repo

from .conftest import Project

# Which stages read what; the first match counts. Nothing reads the profile that is not chosen.
READERS = {
    "data_root": {"audit", "segment", "prompt_quality", "encode", "report"},
    "profiles.embedded.sam2": {"segment", "prompt_quality"},
    "profiles.embedded.clip": {"encode", "report"},
    "profiles.paper": set(),
    "audit": {"audit"},
    "segment.prompt": {"segment", "report"},
    "segment.max_failed": {"segment"},
    "segment": {"segment", "prompt_quality"},
    "prompt_quality": {"prompt_quality"},
    "encode.fill": {"encode", "report"},
    "encode.geometry": {"encode", "report"},
    "encode": {"encode"},
    "splits": {"train"},
    "train": {"train"},
    "evaluate": {"evaluate"},
    "report": {"report"},
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
