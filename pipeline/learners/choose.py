"""The learner and the view that did best on validation; and what a view needs of the mask."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, NamedTuple

import pandas as pd

from pipeline.config import REVIEWED, Params, labels_of, parts_of, variant_of
from pipeline.errors import PipelineError
from pipeline.learners.runs import read_runs_table
from pipeline.paths import Paths

UNMASKED = {"whole": "whole", "trunk": "trunk"}
"""Stored views of the whole image, which need no mask: each is its own control."""
CONTROLS = {"masked": "random", "crop": "random-crop", "inside": "random-inside"}
"""Stored view -> the same with a random region or crop in the mask's place."""


def kind_of(view: str) -> Literal["whole", "mask", "control", "truth"]:
    """Return whether a view (or a joint one) sees the whole image alone, needs the mask, is a
    control with a random region or more labels, or needs a person's masks (the ground truth, or
    corrected ones), which no new image has."""
    parts = {part.partition("@")[0] for part in parts_of(view)}
    if "oracle" in parts or REVIEWED in map(variant_of, parts_of(view)):
        return "truth"
    if parts & set(CONTROLS.values()) or labels_of(view):
        return "control"
    return "whole" if parts <= set(UNMASKED) else "mask"


def control_of(view: str) -> str | None:
    """Return the control of a view that needs the mask, whole+random-crop of whole+crop, with the
    regions of the same variant of the masks; None if there is none, as of whole+dim."""
    named = [part.partition("@") for part in parts_of(view)]
    controls = [(UNMASKED | CONTROLS).get(name, "") for name, _, _ in named]
    joined = "+".join(c + at + of for c, (_, at, of) in zip(controls, named, strict=True))
    return joined if kind_of(view) == "mask" and all(controls) else None


class Choice(NamedTuple):
    """A learner on a view, the accuracy on validation (the mean over seeds; None: it has none),
    and among how many it was chosen."""

    learner: str
    view: str
    val_accuracy: float | None
    among: int

    def __str__(self) -> str:
        """Return one line."""
        said = f"learner {self.learner}, view {self.view}"
        if self.val_accuracy is None:
            return said
        said += f", validation accuracy {self.val_accuracy:.3f}"
        return f"{said}, the best of {self.among} on validation" if self.among > 1 else said


def choose_run(
    dataset: str, params: Params, paths: Paths, learner: str | None = None, view: str | None = None
) -> Choice:
    """Return the trained learner and view with the highest accuracy on validation.

    Compared are the fits of protocol "official" at the largest share of labels, by the mean over
    seeds; of equal ones the first in `study.runs`, then in `learners`. Test images have no part in
    it. Left out are views that need the ground truth, controls, and views of adapted masks, which
    no new image has. What has no validation score (zero-shot, or no validation part) is taken only
    where nothing has one.

    Args:
        dataset, params, paths: the trained learners of `params.learners` are compared.
        learner, view: compare only those of this learner, on this view.

    Raises:
        PipelineError: nothing of the kind was trained.
    """
    tables = []
    for name in [learner] if learner else params.learners:
        with suppress(*[PipelineError] * (learner is None)):
            tables.append(read_runs_table(paths, dataset, name))
    runs = pd.concat(tables) if tables else pd.DataFrame()
    if len(runs):
        there = sorted({"/".join(key) for key in zip(runs["learner"], runs["view"], strict=True)})
        asked = runs["view"].map(kind_of).isin(["whole", "mask"]) & ~runs["view"].str.contains("@")
        asked = asked if view is None else True
        asked &= runs["view"] == (view or runs["view"])
        runs = runs[(runs["status"] == "ok") & (runs["protocol"] == "official") & asked]
    if not len(runs):
        named = " ".join(filter(None, [learner, view and f"view {view}"])) or "no learner"
        raise PipelineError(
            f"{dataset}: {named} was not trained on protocol official",
            path=paths.run(dataset, learner or "x").parent,
            remedy=f"run: pipeline train --dataset {dataset}"
            + (f"; or choose one of {', '.join(there)}" if tables else ""),
        )
    judged = runs.dropna(subset="val_score")
    runs = judged if len(judged) else runs
    runs = runs[runs["fraction"] == runs["fraction"].max()]
    scores = runs.groupby(["learner", "view"], sort=False)["val_score"].mean()
    first = [run.key for run in params.study.runs]
    order = [key for key in first if key in scores.index]
    scores = scores.loc[order + [key for key in scores.index if key not in order]]
    best = scores.index[0] if scores.isna().all() else scores.idxmax()
    score = None if scores.isna().all() else float(scores[best])
    return Choice(*best, score, len(scores))
