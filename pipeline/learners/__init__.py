"""Learners: few-shot classifiers, `fit(samples) -> predict_proba(samples)`, one file each."""

from pipeline.learners.base import DivergedError, Learner, LearnerParams, Samples
from pipeline.learners.registry import get_learner, learner_names, register

__all__ = [
    "DivergedError",
    "Learner",
    "LearnerParams",
    "Samples",
    "get_learner",
    "learner_names",
    "register",
]
