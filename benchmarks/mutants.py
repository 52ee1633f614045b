"""Put chosen faults into a copy of the checkout, one at a time; the tests named for each must fail.

    python benchmarks/mutants.py                   # all faults of mutants.yaml, a table in the end
    python benchmarks/mutants.py --only "EXIF"     # those whose name holds the text

mutmut and cosmic-ray change operators blindly; here each fault is one that a user would be hurt by.
A fault is caught when every test named for it fails by what it asserts or expects. A fault that
breaks an import, the collection or a fixture proves nothing and is not caught.
"""

from __future__ import annotations

import argparse
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
FAULTS = Path(__file__).with_suffix(".yaml")
PATIENCE = 300  # seconds for one test
BROKEN = ("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "Failed: Timeout")
# Each run is a fork of a process that holds the libraries, and nothing of ours: they take longer to
# import than most tests take to run.
FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = ["pytest", "torch", "pandas", "scipy.stats", "sklearn.linear_model", "zarr", "xarray"]
LIBRARIES += ["joblib", "open_clip", "pydicom", "skimage.measure", "torchmetrics", "matplotlib"]
# A compiled file is trusted by the date and size of its source: each change gets a date of its own.
DATES = itertools.count(1_000_000_000)


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        part: what it is about.
        name: the fault in a user's words.
        file: the source file, relative to the checkout.
        text: what is replaced; occurs exactly once in the file.
        becomes: the fault.
        tests: pytest node ids below tests/, every one of which must fail.
    """

    part: str
    name: str
    file: str
    text: str
    becomes: str
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """Return the source with the fault; ValueError where the text is not there exactly once."""
        if (count := source.count(self.text)) != 1:
            raise ValueError(f"{self.name}: the text occurs {count} times in {self.file}")
        changed = source.replace(self.text, self.becomes)
        if self.file.endswith(".py"):
            compile(changed, self.file, "exec")
        return changed


def load_mutants(path: Path = FAULTS) -> list[Mutant]:
    """Return the faults of a YAML file: part -> list of {name, file, text, becomes, tests}.

    Raises:
        ValueError: two faults have one name, or a fault names no test.
    """
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = [
        Mutant(part, **{**entry, "tests": tuple(entry["tests"])})
        for part, entries in table.items()
        for entry in entries
    ]
    names = [mutant.name for mutant in found]
    if len(set(names)) != len(names) or not all(mutant.tests for mutant in found):
        raise ValueError(f"{path}: a name comes twice, or a fault names no test")
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

    def judge(self, mutant: Mutant) -> dict[str, str]:
        """Return what becomes of the named tests under one fault; the copy is whole afterwards."""
        file = self.folder / mutant.file
        source = file.read_text(encoding="utf-8")
        try:
            _write(file, mutant.applied(source))
            return self.run(list(mutant.tests))
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
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="another list of faults")
    parser.add_argument("--jobs", type=int, default=1, help="faults judged at a time")
    arguments = parser.parse_args()
    chosen = [m for m in load_mutants(arguments.faults) if arguments.only in m.name]
    if not chosen:
        parser.error(f"no fault is called {arguments.only!r}")
    clock = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copies: SimpleQueue[Checkout] = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(Checkout(Path(place, str(number)).resolve()))

        def judge(mutant: Mutant | None) -> dict[str, str]:
            copy = copies.get()
            try:
                if mutant is None:  # no fault: all tests must pass
                    return copy.run(sorted({t for m in chosen for t in m.tests}))
                return copy.judge(mutant)
            except ValueError as error:
                return {"": f"broken: {error}"}
            finally:
                copies.put(copy)

        missed = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            judged = pool.map(judge, [*chosen, None])
            print("| fault | tests | caught |\n|---|---|---|", flush=True)
            for mutant in chosen:
                outcomes = next(judged)
                why = "; ".join(f"{t}: {o}" for t, o in outcomes.items() if o != "failed")
                missed += bool(why)
                verdict = f"NOT: {why}" if why else "yes"
                tests = ", ".join(mutant.tests)
                print(f"| {mutant.part}: {mutant.name} | {tests} | {verdict} |", flush=True)
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
