"""Which images train, which choose hyperparameters, which are tested.

Splits depend on image ids, labels, groups and seed only, not on the order of the rows.
"""

from pipeline.splits.plan import Split, SplitPlan, load_split_plan

__all__ = ["Split", "SplitPlan", "load_split_plan"]
