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
    "protocol == 'official' and (view == 'masked' or view == 'whole' and head == 'linear-probe')"
)
run = rows["head"].astype(str) + ", " + rows["view"].astype(str)
accuracy = (
    rows.assign(right=rows.y_true == rows.y_pred, run=run, share=100 * rows.fraction.round(4))
    .groupby(["run", "share", "seed"])
    .right.mean()
    .groupby(["run", "share"])
    .agg(["mean", "min", "max"])
)
figure, axis = plt.subplots(figsize=(5, 3.5), layout="constrained")
for name, curve in accuracy.droplevel("run").groupby(accuracy.index.get_level_values("run")):
    if list(curve.index) == [0]:  # zero-shot uses no labels: a level line
        axis.axhline(curve["mean"].iloc[0], ls="--", color="grey", label=name)
        continue
    (line,) = axis.plot(curve.index, curve["mean"], marker="o", label=name)
    axis.fill_between(curve.index, curve["min"], curve["max"], alpha=0.2, color=line.get_color())
axis.set(xlabel="training labels (%)", ylabel="accuracy (band: all seeds)", title=dataset)
shares = sorted({share for _, share in accuracy.index} - {0})
axis.set_xscale("log")
axis.set_xticks(shares, [f"{share:.3g}" for share in shares])
axis.minorticks_off()
axis.legend()
figure.savefig(out, dpi=150)
