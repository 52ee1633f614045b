"""Write docs/trust.md: what the project promises, and the tests that prove it.

    python -m tools.trust            # --check: exit 1 if docs/trust.md is out of date

A test says what it proves by `@pytest.mark.promise("...")`, one plain sentence that several tests
may share. The sentences are read from the source of the tests, grouped by their folder.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs/trust.md"

SECTIONS = {
    "images": "Every image as a viewer shows it",
    "data": "From files to a manifest",
    "audit": "No copies between train and test",
    "splits": "No leak from test to train",
    "store": "Stored data is whole, or an error",
    "models": "Models and checkpoints",
    "engine": "Runs",
    "segment": "Masks",
    "review": "Masks corrected by hand",
    "adapt": "Adapted masks",
    "encode": "Features",
    "learners": "Learners",
    "evaluate": "Metrics and intervals",
    "report": "The report",
    "end_to_end": "The whole chain",
    "faults": "Interruptions and faults",
    "golden": "Numbers stay what they were",
    "": "The project",
}
"""Folder of tests/ -> heading, in the order of the page."""

INTRODUCTION = """# What you can trust, and the test that proves it

Each promise has tests that fail when it is broken. This page is made from the markers of the tests
by `python -m tools.trust`. The paths are below `tests/`.
"""


class PromiseError(Exception):
    """A marker that cannot be read."""


def promises(tests: Path) -> dict[str, dict[str, list[str]]]:
    """Return folder -> sentence -> tests that prove it, as "path::name" below `tests`.

    Raises:
        PromiseError: a marker on something that pytest does not collect, or whose sentence is
            neither a string nor the name of one in its file.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted(tests.rglob("test_*.py")):
        name = file.relative_to(tests)
        folder = name.parts[0] if len(name.parts) > 1 else ""
        for test, sentence in _marked(file, name):
            proofs = found.setdefault(folder, {}).setdefault(sentence, [])
            proofs.append(f"{name.as_posix()}::{test}")
    return found


def _marked(path: Path, file: Path) -> Iterator[tuple[str, str]]:
    """Yield (test, sentence) for each marker of a test module."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    texts = _constants(module)
    for node in module.body:  # a sentence that a module of the same folder shares
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            other = path.with_name(f"{node.module}.py")
            if other.exists():
                texts |= _constants(ast.parse(other.read_text(encoding="utf-8")))
    for node in ast.walk(module):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and _is_promise(decorator.func)):
                continue
            (argument,) = decorator.args
            sentence = texts.get(argument.id) if isinstance(argument, ast.Name) else None
            if isinstance(argument, ast.Constant):
                sentence = argument.value
            if not isinstance(sentence, str) or not sentence.endswith("."):
                raise PromiseError(f"{file}: {node.name}: the promise is not a plain sentence")
            if not node.name.lower().startswith("test"):
                raise PromiseError(f"{file}: {node.name} has a promise, but is not a test")
            yield node.name, sentence


def _constants(module: ast.Module) -> dict[str, object]:
    """Return the constants that a module assigns to names."""
    return {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _is_promise(function: ast.expr) -> bool:
    return ast.unparse(function) == "pytest.mark.promise"


def page(found: dict[str, dict[str, list[str]]]) -> str:
    """Return the text of docs/trust.md."""
    unknown = found.keys() - SECTIONS.keys()
    if unknown:
        raise PromiseError(f"tools/trust.py has no heading for tests/{min(unknown)}")
    parts = [INTRODUCTION]
    for folder, heading in SECTIONS.items():
        if folder not in found:
            continue
        lines = [f"## {heading}", "", "| promise | proved by |", "|---|---|"]
        for sentence, tests in found[folder].items():
            proofs = "<br>".join(f"`{test}`" for test in dict.fromkeys(tests))
            lines.append(f"| {sentence.replace('|', chr(92) + '|')} | {proofs} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    text = page(promises(CHECKOUT / "tests"))
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/trust.md is out of date - run: python -m tools.trust", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
