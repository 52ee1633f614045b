"""dvc.yaml names the code that decides a stage's result: all that it imports, but plumbing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    name: stage
    for file in ("dvc.yaml", "stages/dvc.yaml", "results/dvc.yaml")
    for name, stage in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["stages"].items()
}

PLUMBING = {
    "pipeline/cli": "hands over dataset and parameters",
    "pipeline/config.py": "turns params.yaml into objects: what they hold is a dep by itself",
    "pipeline/engine/options.py": "how a run is done; what it changes is in the store's identity",
    "pipeline/engine/process.py": "memory and threads",
    "pipeline/engine/progress.py": "tells of a run",
    "pipeline/engine/record.py": "tells of a run",
    "pipeline/errors.py": "words",
    "pipeline/io.py": "atomic writes, hashes, locks and text tables",
    "pipeline/manifest.py": "reads the manifest, which is a dep by itself",
    "pipeline/paths.py": "where things lie",
    "pipeline/provenance.py": "hashes inputs and refuses others",
    "pipeline/remote.py": "the same bytes from a URL",
    "pipeline/store": "reads stores, which are deps and have a format; a dep where it writes them",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def file_of(module: str) -> Path | None:
    at = ROOT.joinpath(*module.split("."))
    files = (at.with_suffix(".py"), at / "__init__.py")
    return next((path for path in files if path.is_file()), None)


def source_of(module: str, name: str) -> Path:
    """The file that holds a name; a package that only passes it on (lazily, too) holds nothing."""
    path = file_of(f"{module}.{name}") or file_of(module)
    assert path is not None, f"{module}: {name}"
    if path.name == "__init__.py":
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names}:
                return source_of(node.module, name)
    return path


def imports(path: Path) -> Iterator[Path]:
    """The files of this package that a file imports, in functions too, for more than its types."""
    of_types = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if id(node) in of_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            if node.module.partition(".")[0] == "pipeline":
                yield from (source_of(node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                assert name.partition(".")[0] != "pipeline", f"{path}: write from ... import"


def code_of(stage: str) -> set[Path]:
    """All files of this package that a stage's command imports, directly or not."""
    found: set[Path] = set()
    todo = [file_of(STAGES[stage]["cmd"].split()[2])]  # python -m MODULE
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            todo += imports(path)
    return {path.relative_to(ROOT) for path in found if path.is_relative_to(ROOT / "pipeline")}


def below(path: Path, names: list[str] | dict[str, str]) -> bool:
    return any(path == Path(name) or Path(name) in path.parents for name in names)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_all_code_that_decides_its_result_and_none_that_it_does_not_use(stage):
    used = code_of(stage)
    named = [name for name in STAGES[stage]["deps"] if name.startswith("pipeline/")]
    missing = {str(p) for p in used if not below(p, named) and not below(p, PLUMBING)}
    assert not missing
    idle = {name for name in named if not any(below(path, [name]) for path in used)}
    assert not idle


def test_a_stage_that_writes_a_store_names_the_code_of_stores_and_of_the_engine():
    for stage in ("segment", "encode"):
        assert {"pipeline/engine", "pipeline/store"} <= set(STAGES[stage]["deps"])


def test_no_plumbing_is_listed_that_no_stage_uses():
    used = set().union(*map(code_of, STAGES))
    assert not {name for name in PLUMBING if not any(below(path, [name]) for path in used)}
