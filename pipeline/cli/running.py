"""How a command ends: a plain sentence and an exit code instead of a traceback."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from pipeline.errors import PipelineError

INTERRUPTED = 130
LOADER = "load"  # how `pipeline.engine.loader` names its threads
# Typer may bring its own copy of click: take the base of its usage errors from a class it exports.
ClickException = typer.BadParameter.__mro__[2]


def guarded(run: Callable[..., Any]) -> None:
    """Call `run`; turn the errors a user can mend into one line on stderr and an exit code.

    Exit codes: 0 done, 1 an unforeseen error (with its traceback), 2 bad input, 3 a stage ended
    with more failed images than allowed or a head that no fit succeeded of, 130 interrupted, by
    Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with _terminable():
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
        # The reader of our output (head, less) has gone: there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code == INTERRUPTED:  # typer itself may turn Ctrl-C into an exit with this code
        _say_interrupted()
    sys.exit(code)


def _say_interrupted() -> None:
    """Tell the user; leave the process at once if a thread still reads a file.

    Such a thread cannot be stopped and Python would wait for it, a minute on a slow disk.
    """
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    print(
        "interrupted - what was computed is kept; run the same command again to go on",
        file=sys.stderr,
    )
    if any(thread.name.startswith(LOADER) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    if before is not None:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM (docker stop, Slurm, timeout) end the code inside as Ctrl-C does.

    Stages with `Interrupts` put their own handler above this one while they run.

    Raises:
        KeyboardInterrupt: SIGTERM came. More of them are ignored, since `timeout` sends two and
            the second would end the writing of what is done.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it there only
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def say_written(paths: Iterable[Path], as_json: bool, **more: Any) -> None:
    """Print the files that a command wrote, one a line; JSON {"written": [...], **more}."""
    names = [str(path) for path in paths]
    typer.echo(json.dumps({"written": names, **more}, indent=2) if as_json else "\n".join(names))


def stage(run: Callable[..., None]) -> None:
    """Run one DVC stage module: its command-line options are `run`'s parameters."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    guarded(app)
