"""The engine that maps images to rows: read ahead, map batches, write in the background, record."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.engine.executor import LocalExecutor, Mapper, Result
    from pipeline.engine.options import RunOptions
    from pipeline.engine.record import RunRecord
    from pipeline.engine.run import run_stage
    from pipeline.store.items import WorkItem

_MODULES = {
    "LocalExecutor": "pipeline.engine.executor",
    "Mapper": "pipeline.engine.executor",
    "Result": "pipeline.engine.executor",
    "RunOptions": "pipeline.engine.options",
    "RunRecord": "pipeline.engine.record",
    "WorkItem": "pipeline.store.items",
    "run_stage": "pipeline.engine.run",
}
__all__ = ["LocalExecutor", "Mapper", "Result", "RunOptions", "RunRecord", "WorkItem", "run_stage"]


def __getattr__(name: str) -> Any:
    # Lazy: `engine.devices` must be importable before numpy starts its threads.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pipeline.engine' has no attribute {name!r}")
