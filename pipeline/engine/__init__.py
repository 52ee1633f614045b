"""The one machine behind segment and encode: load, map, write, record."""

from pipeline.engine.items import Mapper, WorkItem
from pipeline.engine.record import RunRecord
from pipeline.engine.run import run_stage

__all__ = ["Mapper", "RunRecord", "WorkItem", "run_stage"]
