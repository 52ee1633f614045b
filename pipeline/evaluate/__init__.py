"""Metrics with intervals, paired comparisons and mask quality, from stored predictions."""

from pipeline.evaluate.evaluate import compare_runs, evaluate_dataset

__all__ = ["compare_runs", "evaluate_dataset"]
