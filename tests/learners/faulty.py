"""Learners that misbehave, registered by importing this module."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from pipeline.learners import DivergedError, register
from pipeline.learners.zero_shot import ZeroShot


class Faulty(ZeroShot):
    """A learner with labels that raises `fault` at seed 1."""

    needs_labels = True
    fault: BaseException | None = None

    def fit(self, train, val):
        if self.seed == 1 and self.fault is not None:
            raise self.fault
        return super().fit(train, val)


@register("faulty-diverges")
class Diverges(Faulty):
    fault = DivergedError("the loss is nan")


@register("faulty-fails")
class Fails(Faulty):
    fault = ValueError("cannot")


@register("faulty-unsaved")
class Unsaved(Faulty):
    """Leaves at seed 1 what no file can hold."""

    def fit(self, train, val):
        self.weight_ = np.array(["text"] if self.seed == 1 else [1.0])
        return super().fit(train, val)


@register("faulty-six")
class Six(Faulty):
    """Counts its fits, and cannot predict six images."""

    fits = 0

    def fit(self, train, val):
        Six.fits += 1
        return super().fit(train, val)

    def predict_proba(self, samples):
        if len(samples) == 6:
            raise ValueError("no six")
        return super().predict_proba(samples)


@register("faulty-waits")
class Waits(Faulty):
    """Waits at seed 1, and says so by a file, where the environment names one."""

    def fit(self, train, val):
        if self.seed == 1 and os.environ.get("WAIT_TRAINING"):
            Path(os.environ["WAIT_TRAINING"]).touch()
            time.sleep(600)
        return super().fit(train, val)
