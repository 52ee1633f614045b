"""Commands forked from a process that has already imported the large libraries and the code.

Starting Python and importing torch costs six seconds of a core; a fork costs none. A forked command
still has a process, session, folder, environment, output and exit code of its own.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[1]
SECONDS = 600
"""Longest time that a command may take."""
OWN_CODE = "TESTS_OWN_CODE"
"""Variable that lets a command import the project's own copy of the code, which a test changed."""

LIBRARIES = """
open_clip sam2.build_sam sam2.sam2_image_predictor sam2.modeling.sam2_base timm hydra.utils
transformers.models.bert.modeling_bert transformers.models.bert.tokenization_bert safetensors.torch
sklearn.linear_model skimage.measure scipy.ndimage xarray zarr pandas pyarrow.parquet joblib
PIL.Image matplotlib.figure rich.progress typer pydantic jinja2 dvc.cli dvc.commands.repro dvc.repo
"""
CODE = """
pipeline.cli pipeline.intake.add pipeline.phantoms pipeline.preview pipeline.audit.audit
pipeline.segment.segment pipeline.segment.prompt_quality pipeline.encode.encode pipeline.predict
pipeline.learners.train pipeline.evaluate.evaluate pipeline.report.build pipeline.report.results
"""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload((LIBRARIES + CODE).split())


@dataclass(frozen=True)
class Running:
    """A command at work; its output goes to a file."""

    process: multiprocessing.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return False if the command ends before it holds."""
        end = time.monotonic() + SECONDS
        while not condition():
            if not self.process.is_alive():
                return condition()
            assert time.monotonic() < end, f"still waiting\n{self.output}"
            time.sleep(0.002)
        return True

    def signal(self, number: int) -> None:
        """Send a signal to all its processes, as a terminal does on Ctrl-C."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill -9 its first process only."""
        os.kill(self.pid, signal.SIGKILL)

    def children(self) -> list[psutil.Process]:
        """Its living worker processes."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
            return [child for child in found if "popen_loky" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []

    def wait(self) -> int:
        """Wait for the end; return the exit code, negative for a signal. Nothing may hang."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL)
            self.process.join()
            raise AssertionError(f"it hangs\n{self.output}")
        return self.process.exitcode


def start(
    arguments: tuple[str, ...],
    *,
    root: Path,
    environment: Mapping[str, str],
    log: Path,
    first: str = "",
    module: str = "pipeline",
) -> Running:
    """Start `python -m module ...`.

    Args:
        arguments: of the command.
        root: the project folder.
        environment: all variables.
        log: file or terminal for what it prints on either stream.
        first: Python code that its process runs before the command.
        module: what is run: pipeline, dvc, a stage, or "" for nothing but `first`.
    """
    log.touch()
    given = (str(log), arguments, str(root), dict(environment), first, module)
    process = _forks.Process(target=_command, args=given)
    process.start()
    return Running(process, log)


def _command(
    log: str,
    arguments: tuple[str, ...],
    root: str,
    environment: dict[str, str],
    first: str,
    module: str,
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.setsid()
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, root if OWN_CODE in environment else str(REPO))
    if OWN_CODE in environment:
        for name in [n for n in sys.modules if n.partition(".")[0] == "pipeline"]:
            del sys.modules[name]
    elif "pipeline" in sys.modules:
        assert Path(sys.modules["pipeline"].__file__).is_relative_to(REPO)
    sys.argv = [module, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        exec(first, {})
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        # As the interpreter ends, in its order; a forked process leaves out the second.
        threading._shutdown()
        atexit._run_exitfuncs()


# -- commands that a shell or DVC starts ----------------------------------------------------------

CLIENT = """#!{python} -SE
import json, os, shlex, socket, sys
program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if program == "sh":  # -c "python -m ..."
    command = arguments[-1]
else:
    command = shlex.join(["python", *(["-m", program] if program != "python" else []), *arguments])
asked = dict(command=command, root=os.getcwd(), environment=dict(os.environ))
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    server.sendall(json.dumps(asked).encode() + b"\\n")
    answer = json.loads(server.makefile().readline())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
"""


@functools.cache
def programs() -> Path:
    """Return a folder with programs that pass their command to this process, which forks it:
    `pipeline` and `python` for bash, `sh` for the variable SHELL, with which DVC runs stages."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # short, since it holds a Unix socket
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.listen()
    (folder / "bin").mkdir()
    for name in ("pipeline", "python", "sh"):
        client = folder / "bin" / name
        client.write_text(CLIENT.format(python=sys.executable, path=str(folder / "socket")))
        client.chmod(0o755)

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection, folder), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return folder / "bin"


def _answer(connection: socket.socket, folder: Path) -> None:
    """Run the command that a program of `programs` sent; send back its exit code and output."""
    with connection, connection.makefile("rw") as stream:
        asked = json.loads(stream.readline())
        _, kind, what, *arguments = shlex.split(asked["command"])  # python -m MODULE or -c CODE
        running = start(
            tuple(arguments),
            root=Path(asked["root"]),
            environment=asked["environment"],
            log=folder / f"{time.monotonic_ns()}.log",
            **{"-m": {"module": what}, "-c": {"first": what, "module": ""}}[kind],
        )
        answer = {"code": running.wait(), "output": running.output}
        stream.write(json.dumps(answer) + "\n")
