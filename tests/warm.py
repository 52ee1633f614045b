"""`pipeline` commands forked from a process that has already imported the large libraries.

Starting Python and importing torch costs six seconds of a core; a fork costs none. A forked command
still has a process, session, folder, environment, output and exit code of its own, and imports the
project's code itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import os
import re
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

SECONDS = 600
"""Longest time that a command may take."""

LIBRARIES = (
    "open_clip",
    "sam2.build_sam",
    "sam2.sam2_image_predictor",
    "safetensors.torch",
    "sklearn.linear_model",
    "skimage.measure",
    "scipy.ndimage",
    "xarray",
    "zarr",
    "pandas",
    "pyarrow.parquet",
    "joblib",
    "PIL.Image",
    "matplotlib.figure",
    "rich.progress",
    "typer",
    "pydantic",
    "jinja2",
)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(LIBRARIES))


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
    code: Path,
    environment: Mapping[str, str],
    log: Path,
    first: str = "",
    module: str = "",
) -> Running:
    """Start `pipeline ...`, or `python -m module ...`.

    Args:
        arguments: of the command.
        root: the project folder.
        code: the folder that holds the package `pipeline`.
        environment: all variables.
        log: file for what it prints on either stream.
        first: Python code that its process runs before the command.
        module: what is run; "" is `pipeline`.
    """
    log.touch()
    given = (str(log), arguments, str(root), str(code), dict(environment), first, module)
    process = _forks.Process(target=_command, args=given)
    process.start()
    return Running(process, log)


def run(
    arguments: tuple[str, ...], *, root: Path, code: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run `pipeline ...` to its end; return its exit code and what it printed. See `start`."""
    with tempfile.TemporaryDirectory() as folder:
        running = start(
            arguments, root=root, code=code, environment=environment, log=Path(folder, "log")
        )
        return running.wait(), running.output


def _command(
    log: str,
    arguments: tuple[str, ...],
    root: str,
    code: str,
    environment: dict[str, str],
    first: str,
    module: str,
) -> None:
    assert "pipeline" not in sys.modules
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.setsid()
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, code)
    sys.argv = [module or "pipeline", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    exec(first, {})
    try:
        if module:
            runpy.run_module(module, run_name="__main__")
        else:
            from pipeline.cli import main

            main()
    finally:
        sys.stdout.flush()
        # As the interpreter ends, in its order; a forked process leaves out the second.
        threading._shutdown()
        atexit._run_exitfuncs()


# -- stages that DVC runs -------------------------------------------------------------------------

CLIENT = """#!{python} -SE
import json, os, socket, sys
asked = dict(command=sys.argv[-1], root=os.getcwd(), environment=dict(os.environ))
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    server.sendall(json.dumps(asked).encode() + b"\\n")
    answer = json.loads(server.makefile().readline())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
"""
STAGE = re.compile(r"python -m (stages\.\w+)(.*)")


@functools.cache
def shell() -> str:
    """Return a program for the variable SHELL, with which DVC runs the commands of its stages.

    It passes the command to this process, which forks it as `start` does.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # short, since it holds a Unix socket
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    server.listen()
    client = folder / "shell"
    client.write_text(CLIENT.format(python=sys.executable, path=str(folder / "socket")))
    client.chmod(0o755)

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection, folder), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return str(client)


def _answer(connection: socket.socket, folder: Path) -> None:
    """Run the command that a client of `shell` sent, and send back its exit code and output."""
    with connection, connection.makefile("rw") as stream:
        asked = json.loads(stream.readline())
        module, arguments = STAGE.fullmatch(asked["command"]).groups()
        running = start(
            tuple(shlex.split(arguments)),
            root=Path(asked["root"]),
            code=Path(asked["root"]),
            environment=asked["environment"],
            log=folder / f"{time.monotonic_ns()}.log",
            module=module,
        )
        answer = {"code": running.wait(), "output": running.output}
        stream.write(json.dumps(answer) + "\n")
