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
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
pipeline.learners.train pipeline.compare pipeline.evaluate.evaluate pipeline.report.build
pipeline.report.results
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

    def wait(self) -> int:
        """Wait for the end; return the exit code, negative for a signal. Nothing may hang."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs\n{self.output}")
        return self.process.exitcode


def start(
    module: str,
    arguments: Sequence[str],
    root: Path,
    environment: Mapping[str, str],
    log: Path,
    first: str = "",
) -> Running:
    """Start `python -m module ...` in a project folder.

    `environment` are all its variables, `log` is the file or terminal for what it prints on either
    stream, `first` is Python code that its process runs before; module "" = nothing but that.
    """
    log.touch()
    given = (module, tuple(arguments), str(root), dict(environment), str(log), first)
    process = _forks.Process(target=_command, args=given)
    process.start()
    return Running(process, log)


def _command(module, arguments, root, environment, log, first) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.setsid()
    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    own_code = OWN_CODE in environment
    sys.path.insert(0, root if own_code else str(REPO))
    for name in [n for n in sys.modules if own_code and n.partition(".")[0] == "pipeline"]:
        del sys.modules[name]
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
    arguments = shlex.split(arguments[-1])[1:]
elif program == "pipeline":
    arguments = ["-m", program, *arguments]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    server.sendall(json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    code, output = json.loads(server.makefile().readline())
sys.stdout.write(output)
sys.exit(code)
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
    for name in ("pipeline", "python", "sh"):
        client = folder / name
        client.write_text(CLIENT.format(python=sys.executable, path=str(folder / "socket")))
        client.chmod(0o755)

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            (option, what, *arguments), root, environment = json.loads(stream.readline())
            module, first = (what, "") if option == "-m" else ("", what)  # or -c CODE
            log = folder / f"{time.monotonic_ns()}.log"
            running = start(module, arguments, Path(root), environment, log, first)
            stream.write(json.dumps([running.wait(), running.output]) + "\n")

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return folder
