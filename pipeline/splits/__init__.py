"""Who trains, who chooses hyperparameters, who is tested: a fixed function of ids, labels,
groups and seed, whatever the order of the rows."""

from pipeline.splits.plan import Split, SplitPlan, load_split_plan, plan_splits

__all__ = ["Split", "SplitPlan", "load_split_plan", "plan_splits"]
