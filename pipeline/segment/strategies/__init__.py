"""Prompt strategies, one file each. To add one, write its file and add it to `STRATEGIES`."""

from __future__ import annotations

from pipeline.config import SegmentParams
from pipeline.errors import ConfigError
from pipeline.segment.strategies.auto import Auto
from pipeline.segment.strategies.base import MaskResult, Models, PreparedImage, Strategy
from pipeline.segment.strategies.box import Box
from pipeline.segment.strategies.center_box import CenterBox
from pipeline.segment.strategies.full import Full
from pipeline.segment.strategies.manifest import Manifest
from pipeline.segment.strategies.points import Points
from pipeline.segment.strategies.salient import Salient
from pipeline.segment.strategies.salient_refine import SalientRefine

__all__ = ["STRATEGIES", "MaskResult", "Models", "PreparedImage", "Strategy", "strategy_class"]

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (Salient, SalientRefine, Auto, CenterBox, Box, Points, Full, Manifest)
}


def strategy_class(params: SegmentParams) -> type[Strategy]:
    """Return the strategy that `segment.prompt` names.

    Raises:
        ConfigError: no strategy has this name.
    """
    try:
        return STRATEGIES[params.prompt]
    except KeyError:
        raise ConfigError(
            f"segment.prompt: no strategy is called {params.prompt!r}",
            remedy=f"choose one of {', '.join(STRATEGIES)}",
        ) from None
