"""How a command ends: a plain message and an exit code instead of a traceback."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from pipeline.errors import PipelineError

INTERRUPTED = 130
LOADER = "load"  # prefix of the loader threads of `pipeline.engine.run`
# Typer may bundle its own click: take the base of its usage errors from a class it exports.
ClickException = typer.BadParameter.__mro__[2]


def guarded(run: Callable[..., Any]) -> None:
    """Call `run`; turn errors that a user can fix into one line on stderr and an exit code.

    SIGTERM (docker stop, Slurm, timeout) ends it as Ctrl-C does; stages replace this handler by
    that of `Interrupts` while they run.

    Exit codes: 0 success, 1 an unexpected error (with its traceback), 2 bad input, 3 a stage with
    more failed images than allowed or a learner without a successful fit, 130 interrupted by
    Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
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
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:  # typer itself may turn Ctrl-C into an exit with this code
        print(
            "interrupted - what was computed is kept; run the same command again to continue",
            file=sys.stderr,
        )
        # A thread that still reads a file cannot be stopped, and Python would wait for it.
        if any(thread.name.startswith(LOADER) for thread in threading.enumerate()):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
    sys.exit(code)


def _stop(number: int, frame: object) -> None:
    # `timeout` sends two: the second would interrupt the writing of finished rows.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def stage(run: Callable[..., None]) -> None:
    """Run the module of a DVC stage; its command-line options are the parameters of `run`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    guarded(app)
