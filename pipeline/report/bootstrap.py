"""Intervals of means and correlations over images, as `pipeline.evaluate` computes them."""

from pipeline.evaluate.images import rank_correlation as spearman
from pipeline.evaluate.intervals import mean_interval

Interval = tuple[float, float, float]

__all__ = ["Interval", "mean_interval", "spearman"]
