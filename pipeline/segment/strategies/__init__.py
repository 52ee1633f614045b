"""Prompt strategies, one file each. A new one: add its file, import it here, put it in the list."""

from __future__ import annotations

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError
from pipeline.segment.strategies.auto import Auto
from pipeline.segment.strategies.base import Found, Look, Strategy
from pipeline.segment.strategies.box import Box
from pipeline.segment.strategies.center_box import CenterBox
from pipeline.segment.strategies.full import Full
from pipeline.segment.strategies.manifest import Manifest
from pipeline.segment.strategies.points import Points
from pipeline.segment.strategies.salient import Salient
from pipeline.segment.strategies.salient_refine import SalientRefine

__all__ = ["STRATEGIES", "Found", "Look", "Strategy", "make_strategy"]

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (Salient, SalientRefine, Auto, CenterBox, Box, Points, Full, Manifest)
}


def make_strategy(params: SegmentParams) -> Strategy:
    """Return the strategy that `segment.prompt` names.

    Raises:
        ConfigError: no strategy has this name.
    """
    try:
        return STRATEGIES[params.prompt](params)
    except KeyError:
        raise ConfigError(
            f"segment.prompt: no strategy is called {params.prompt!r}",
            remedy=f"choose one of {', '.join(STRATEGIES)}",
        ) from None
