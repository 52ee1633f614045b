"""Metrics with intervals, paired comparisons and mask quality, from stored predictions."""

from pipeline.evaluate.evaluate import evaluate_dataset as evaluate_dataset
