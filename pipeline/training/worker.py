"""A process that works for another one ends with it."""

from __future__ import annotations

import os
import threading
import time

EVERY_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Let this process end when its parent is gone.

    loky's workers wait for more work for ever after a `kill -9` of the process that started them.

    Args:
        parent: id of the process that started this one.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
