"""Which code a fit depends on: another one is fitted again."""

from __future__ import annotations

import hashlib
import inspect
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.heads.registry import get_head

_VERSIONED = sys.stdlib_module_names | {"numpy", "sklearn", "torch"}


def code_digest(head: str) -> str:
    """Digest of the source that decides a fit: how it is done, this package's heads, and the
    modules of the head's class and of its bases, with the helpers and constants in them.

    Modules that those import, and other cells of a notebook, are not seen.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in [here / "cell.py", *sorted((here.parent / "heads").glob("*.py"))]:
        digest.update(path.read_bytes())
    for cls in get_head(head).__mro__:
        ours = cls.__module__.startswith("pipeline.heads.")
        if not ours and cls.__module__.partition(".")[0] not in _VERSIONED:
            digest.update(_source(cls))
    return digest.hexdigest()


def _source(cls: type) -> bytes:
    """Return the file of a class's module, and the class's own lines: a notebook's are in none."""
    module = b""
    with suppress(AttributeError, KeyError, OSError, TypeError):
        module = Path(sys.modules[cls.__module__].__file__).read_bytes()
    try:
        own = inspect.getsource(cls)
    except (OSError, TypeError):  # defined in an interactive session: no source to read
        own = repr(cls)
    return module + own.encode()
