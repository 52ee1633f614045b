"""Put chosen faults into a copy of the checkout, one at a time; the tests named for each must fail.

    python benchmarks/faults.py                    # all faults of benchmarks/faults/
    python benchmarks/faults.py --only "EXIF"      # those whose name contains the text

mutmut and cosmic-ray change operators at random; here each fault is one that would hurt a user. A
fault is caught when every test named for it fails by an assertion. A fault that breaks an import,
the collection or a fixture proves nothing and does not count as caught.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

REPO = Path(__file__).resolve().parent.parent
FAULTS = REPO / "benchmarks/faults"
PATIENCE = 300  # seconds for one test
BROKEN = ("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "Failed: Timeout")
# Each run is forked from a process that has imported the libraries, but nothing of this project:
# importing them takes longer than most tests.
FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = ["pytest", "torch", "pandas", "scipy.stats", "sklearn.linear_model", "zarr", "xarray"]
LIBRARIES += ["joblib", "open_clip", "pydicom", "skimage.measure", "torchmetrics", "matplotlib"]
# Python trusts a compiled file by the date and size of its source: each change gets a new date.
DATES = itertools.count(1_000_000_000)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        part: the area of the code, which is the name of its file in benchmarks/faults/.
        name: the fault in a user's words.
        text: what is replaced; occurs exactly once in the source of `function` (or in `file`).
        becomes: the fault.
        tests: pytest node ids below tests/, every one of which must fail.
        function: "module.path:qualified.name" of a function or class, or "module.path".
        file: path in the checkout, for what is not Python code.
    """

    part: str
    name: str
    text: str
    becomes: str
    tests: tuple[str, ...]
    function: str = ""
    file: str = ""

    def path(self, root: Path) -> Path:
        """Return the file that is changed, in a checkout."""
        if self.file:
            return root / self.file
        module = root.joinpath(*self.function.partition(":")[0].split("."))
        return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")

    def applied(self, source: str) -> str:
        """Return the text of the file with the fault.

        Raises:
            ValueError: there is no such function, or its text is not there exactly once.
        """
        start, end = _span(source, self.function.partition(":")[2])
        inside = source[start:end]
        if (count := inside.count(self.text)) != 1:
            where = self.function or self.file
            raise ValueError(f"{self.name}: the text occurs {count} times in {where}")
        changed = source[:start] + inside.replace(self.text, self.becomes) + source[end:]
        if not self.file or self.file.endswith(".py"):
            compile(changed, self.function, "exec")
        return changed


def _span(source: str, qualified: str) -> tuple[int, int]:
    """Return where a function or class starts and ends in its module; "" is the whole module."""
    if not qualified:
        return 0, len(source)
    node: ast.AST = ast.parse(source)
    for name in qualified.split("."):
        found = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", "") == name]
        if not found:
            raise ValueError(f"there is no {qualified}")
        node = found[-1]
    lines = source.splitlines(keepends=True)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return len("".join(lines[: first - 1])), len("".join(lines[: node.end_lineno]))


def load_faults(folder: Path = FAULTS) -> list[Fault]:
    """Return the faults of a YAML file, or of all in a folder: lists of the fields of `Fault`.

    Raises:
        ValueError: two faults have one name, or a fault names no test.
    """
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else [folder]
    found = []
    for file in files:
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")) or []:
            given = {"part": file.stem, **entry, "tests": tuple(entry["tests"])}
            found.append(Fault(**given))
    names = [fault.name for fault in found]
    if len(set(names)) != len(names) or not all(fault.tests for fault in found):
        raise ValueError(f"{folder}: a name occurs twice, or a fault names no test")
    return found


class Checkout:
    """A copy of the tracked files, in which tests run on the copy's own code.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (REPO / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPO / name, folder / name)
        shared = os.environ.get("PIPELINE_SHARED", str(REPO.parent / "shared"))
        self.env = {"PYTHONPATH": str(folder), "PIPELINE_SHARED": shared}
        # Not the code of the checkout that may be installed: asked from elsewhere, as the commands
        # that tests start are run.
        asked = subprocess.run(
            [sys.executable, "-c", "import pipeline, stages; print(pipeline.__file__)"],
            cwd=tempfile.gettempdir(),
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(asked.stdout.strip()).is_relative_to(folder), asked.stdout

    def run(self, tests: list[str]) -> dict[str, str]:
        """Run tests; return by node id below tests/ (without parameters) what became of it.

        Returns:
            "passed", "failed", or "broken: ..." for errors outside the test, imports and timeouts.
            A parametrised test has failed when one of its cases has, and is broken when one is.
        """
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        child = FORKS.Process(target=_pytest, args=(self.folder, self.env, tests, report))
        child.start()
        child.join()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        outcomes: dict[str, str] = {}
        cases = ET.parse(report).iter("testcase") if report.exists() else ()
        for case in cases:
            module = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            name = f"{module}.py::{case.get('name', '').split('[')[0]}"
            outcomes[name] = max(outcomes.get(name, ""), _outcome(case), key=_weight)
        if child.exitcode not in (0, 1) or not outcomes:
            said = (report.with_suffix(".log").read_text().strip().splitlines() or [""])[-1]
            return dict.fromkeys(tests, f"broken: pytest exit {child.exitcode}: {said}")
        return {test: outcomes.get(test.split("[")[0], "broken: did not run") for test in tests}

    def judge(self, fault: Fault) -> dict[str, str]:
        """Return what becomes of the named tests under one fault; the copy is whole afterwards."""
        file = fault.path(self.folder)
        source = file.read_text(encoding="utf-8")
        try:
            _write(file, fault.applied(source))
            return self.run(list(fault.tests))
        finally:
            _write(file, source)


def _pytest(folder: Path, env: dict[str, str], tests: list[str], report: Path) -> None:
    """Run pytest in this process, which is a fresh fork; ends it with pytest's exit code."""
    os.setsid()  # so that workers which outlive their test can be ended with it
    log = os.open(report.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(env)
    sys.dont_write_bytecode = False  # the copy is imported many times
    os.chdir(folder)
    ours = {str(REPO), str(REPO / "benchmarks"), ""}
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry not in ours)]
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", f"--timeout={PATIENCE}"]
    options += [f"--junitxml={report}", *(f"tests/{test}" for test in tests)]
    code = int(pytest.main(options))
    loaded = sys.modules.get("pipeline")
    if loaded is not None and not Path(loaded.__file__).is_relative_to(folder):
        print(f"the code of {loaded.__file__} was tested")
        code = 99
    sys.stdout.flush()
    os._exit(code)  # without waiting for idle workers


def _outcome(case: ET.Element) -> str:
    for kind in ("error", "failure"):
        if (found := case.find(kind)) is not None:
            said = found.get("message", "")
            broken = kind == "error" or said.startswith(BROKEN)
            return f"broken: {said.splitlines()[0][:150] if said else kind}" if broken else "failed"
    return "passed" if case.find("skipped") is None else "broken: skipped"


def _weight(outcome: str) -> int:
    return ("", "passed", "failed", "broken").index(outcome.split(":")[0])


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    date = next(DATES)
    os.utime(file, (date, date))


def main() -> int:
    """Judge all faults; return 1 when one is not caught or a test fails without any fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose name contains this text")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="another file or folder")
    parser.add_argument("--jobs", type=int, default=1, help="faults judged at the same time")
    arguments = parser.parse_args()
    chosen = [f for f in load_faults(arguments.faults) if arguments.only in f.name]
    if not chosen:
        parser.error(f"no fault is called {arguments.only!r}")
    clock = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        copies: SimpleQueue[Checkout] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(Checkout(Path(place, str(number)).resolve()))

        def judge(fault: Fault | None) -> dict[str, str]:
            copy = copies.get()
            try:
                if fault is None:  # no fault: all tests must pass
                    return copy.run(sorted({t for f in chosen for t in f.tests}))
                return copy.judge(fault)
            except ValueError as error:
                return {"": f"broken: {error}"}
            finally:
                copies.put(copy)

        missed = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            judged = pool.map(judge, [*chosen, None])
            print("| fault | tests | caught |\n|---|---|---|", flush=True)
            for fault in chosen:
                outcomes = next(judged)
                why = "; ".join(f"{t}: {o}" for t, o in outcomes.items() if o != "failed")
                missed += bool(why)
                verdict = f"NOT: {why}" if why else "yes"
                tests = ", ".join(fault.tests)
                print(f"| {fault.part}: {fault.name} | {tests} | {verdict} |", flush=True)
            plain = next(judged)
    bad = {test: outcome for test, outcome in plain.items() if outcome != "passed"}
    for test, outcome in bad.items():
        print(f"without any fault: {test}: {outcome}")
    print(
        f"{len(chosen) - missed} of {len(chosen)} faults caught by {len(plain)} tests, "
        f"{len(bad)} of which fail without a fault; {time.monotonic() - clock:.0f} s"
    )
    return 1 if missed or bad else 0


if __name__ == "__main__":
    sys.exit(main())
