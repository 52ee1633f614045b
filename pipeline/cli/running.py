"""How a command ends: a plain message and an exit code instead of a traceback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from pipeline.errors import PipelineError

INTERRUPTED = 130
LOADER = "load"  # prefix of the loader threads of `pipeline.engine.executor`
# Typer may bundle its own click: take the base of its usage errors from a class it exports.
ClickException = typer.BadParameter.__mro__[2]


def guarded(run: Callable[..., Any]) -> None:
    """Call `run`; turn errors that a user can fix into one line on stderr and an exit code.

    Exit codes: 0 success, 1 an unexpected error (with its traceback), 2 bad input, 3 a stage with
    more failed images than allowed or a learner without a successful fit, 130 interrupted by
    Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with _sigterm_interrupts():
            result = run(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        # The reader of the output (head, less) has exited.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code == INTERRUPTED:  # typer itself may turn Ctrl-C into an exit with this code
        _report_interruption()
    sys.exit(code)


def _report_interruption() -> None:
    """Print a message; leave the process at once if a thread is still reading a file.

    Such a thread cannot be stopped, and Python would wait for it: a minute on a slow disk.
    """
    print(
        "interrupted - what was computed is kept; run the same command again to continue",
        file=sys.stderr,
    )
    if any(thread.name.startswith(LOADER) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM (docker stop, Slurm, timeout) end the block as Ctrl-C does.

    Stages replace this handler by that of `interrupts` while they run.

    Raises:
        KeyboardInterrupt: SIGTERM was received. Further ones are ignored, since `timeout` sends
            two and the second would interrupt the writing of finished rows.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it only there
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def stage(run: Callable[..., None]) -> None:
    """Run the module of a DVC stage; its command-line options are the parameters of `run`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    guarded(app)
