"""The engine that maps images to rows: read ahead, map batches, write in the background, record."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.engine.executor import LocalExecutor, Mapper, Result
    from pipeline.engine.items import WorkItem
    from pipeline.engine.options import RunOptions
    from pipeline.engine.record import RunRecord
    from pipeline.engine.run import run_stage

_MODULES = {
    "LocalExecutor": "executor",
    "Mapper": "executor",
    "Result": "executor",
    "RunOptions": "options",
    "RunRecord": "record",
    "WorkItem": "items",
    "run_stage": "run",
}
__all__ = ["LocalExecutor", "Mapper", "Result", "RunOptions", "RunRecord", "WorkItem", "run_stage"]


def __getattr__(name: str) -> Any:
    # Lazy: `engine.devices` must be importable before numpy starts its threads.
    if name in _MODULES:
        return getattr(import_module(f"pipeline.engine.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pipeline.engine' has no attribute {name!r}")
