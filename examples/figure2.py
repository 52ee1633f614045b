"""Redraw Fig. 2 of the paper, accuracy by share of labels, from the stored predictions.

python examples/figure2.py brain figure2.png
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pipeline.config import load_params
from pipeline.learners.runs import read_predictions
from pipeline.paths import Paths

dataset, out = sys.argv[1], sys.argv[2]
params = load_params("params.yaml")
rows = read_predictions(Paths(), dataset, params.learners)[1].to_pandas()
rows = rows[rows["protocol"] == "official"]
figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
for run in params.study.runs:
    mine = rows[(rows["learner"] == run.learner) & (rows["view"] == run.view)]
    right = (mine["y_true"].astype(str) == mine["y_pred"].astype(str)).astype(float)
    by_seed = right.groupby([100 * mine["fraction"].round(4), mine["seed"]]).mean()
    curve = by_seed.groupby(level=0).agg(["mean", "min", "max"])
    if list(curve.index) == [0]:  # zero-shot uses no labels: a level line
        axis.axhline(curve["mean"].iloc[0], ls="--", color="grey", label=run.name)
        continue
    (line,) = axis.plot(curve.index, curve["mean"], marker="o", label=run.name)
    axis.fill_between(curve.index, curve["min"], curve["max"], alpha=0.2, color=line.get_color())
axis.set(xlabel="training labels (%)", ylabel="accuracy (band: all seeds)", title=dataset)
shares = sorted({round(100 * f, 2) for f in rows["fraction"]} - {0})
axis.set_xscale("log")
axis.set_xticks(shares, [f"{share:.3g}" for share in shares])
axis.minorticks_off()
axis.legend()
figure.savefig(out, dpi=150)
