"""Learners that misbehave, registered by importing this module."""

from __future__ import annotations

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
