"""Redraw the paper's Fig. 2 (accuracy versus share of labels) from the stored predictions.

python examples/figure2.py brain figure2.png
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

dataset, out = sys.argv[1], sys.argv[2]
rows = pd.read_parquet(f"cache/{dataset}/predictions.parquet").query(
    "protocol == 'official' and view == 'masked'"
)
accuracy = (
    rows.assign(right=rows.y_true == rows.y_pred)
    .groupby(["head", "fraction", "seed"])
    .right.mean()
    .groupby(["head", "fraction"])
    .agg(["mean", "min", "max"])
)
figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
for head, curve in accuracy.groupby("head"):
    share = curve.index.get_level_values("fraction") * 100
    if list(share) == [0]:  # zero-shot uses no labels: a level line
        axis.axhline(curve["mean"].iloc[0], ls="--", color="grey", label=head)
        continue
    (line,) = axis.plot(share, curve["mean"], marker="o", label=head)
    axis.fill_between(share, curve["min"], curve["max"], alpha=0.2, color=line.get_color())
axis.set(xlabel="training labels (%)", ylabel="accuracy (band: all seeds)", title=dataset)
axis.set_xscale("log", base=2)
axis.legend()
figure.savefig(out, dpi=150)
