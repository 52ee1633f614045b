"""Learners: few-shot classifiers, `fit(samples) -> predict_proba(samples)`, one file each."""

from pipeline.learners.base import (
    DivergedError,
    Learner,
    LearnerParams,
    Samples,
    get_learner,
    register,
)

__all__ = ["DivergedError", "Learner", "LearnerParams", "Samples", "get_learner", "register"]
