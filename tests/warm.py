"""`pipeline` commands forked from a process that has loaded their libraries already.

Python takes six seconds of a core to start with torch in it, and a fork takes none. The command
has a process of its own all the same, with its arguments, folder, environment, output and exit
code, and imports and runs the project's own code in it. What depends on how a process starts, on
signals or limits is tested by programs started anew.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

SECONDS = 600
"""Longest that a command may take: nothing hangs."""

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
)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(LIBRARIES))


def run(
    arguments: tuple[str, ...], *, root: Path, code: Path, environment: Mapping[str, str]
) -> tuple[int, str]:
    """Run `pipeline ...` to its end.

    Args:
        arguments: of the command.
        root: the project folder.
        code: the folder that holds the package `pipeline`.
        environment: all variables.

    Returns:
        Exit code, and what it said on either stream.
    """
    with tempfile.NamedTemporaryFile() as log:
        given = (log.name, arguments, str(root), str(code), dict(environment))
        process = _forks.Process(target=_command, args=given)
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"it hangs\n{log.read().decode(errors='replace')}")
        return process.exitcode, log.read().decode(errors="replace")


def _command(
    log: str, arguments: tuple[str, ...], root: str, code: str, environment: dict[str, str]
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
    sys.argv = ["pipeline", *arguments]
    from pipeline.cli import main

    try:
        main()
    finally:
        sys.stdout.flush()
        # As the interpreter ends, in its order; of the two a forked process leaves out the second.
        threading._shutdown()
        atexit._run_exitfuncs()
