"""Heads that misbehave, registered by importing this module: each test file that names one does."""

from __future__ import annotations

from pipeline.heads import DivergedError, register
from pipeline.heads.zero_shot import ZeroShot


class Odd(ZeroShot):
    """A labelled head that misbehaves on one seed."""

    needs_labels, parameters = True, ()
    fault: Exception | type[BaseException]

    @classmethod
    def from_params(cls, params, *, seed):
        head = cls()
        head.seed = seed
        return head

    def fit(self, X, y, *, T, X_val, y_val):
        if self.seed == 1:
            raise self.fault
        return super().fit(X, y, T=T)


@register("odd-diverges")
class Diverges(Odd):
    fault = DivergedError("the loss is nan")


@register("odd-fails")
class Fails(Odd):
    fault = ValueError("cannot")
