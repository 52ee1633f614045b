"""Metrics with intervals, paired comparisons and mask quality, from stored predictions."""

from pipeline.evaluate.compare import compare_runs
from pipeline.evaluate.evaluate import evaluate_dataset

__all__ = ["compare_runs", "evaluate_dataset"]
