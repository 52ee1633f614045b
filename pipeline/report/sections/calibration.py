"""Reliability diagrams: is a run as often right as it is sure?"""

from __future__ import annotations

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.cases import reliability_bins
from pipeline.report.figures import FEW, reliability
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Grid, Section, Text
from pipeline.report.tables import share


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Draw the reference runs at the largest and at the smallest share of labels."""
    if found.metrics is None:
        return None
    table = select.over_seeds(found.metrics, "official", "full")
    fractions = select.fractions_of(table)
    figures = []
    for fraction in dict.fromkeys([*fractions[-1:], *fractions[:1]]):
        series = {}
        for run in select.reference_runs(table):
            bins = reliability_bins(found, "official", *run, fraction, params.evaluate.bins)
            if bins is not None:
                series[run] = bins
        if series:
            figures.append(reliability(f"{share(fraction)} of the labels", series))
    if not figures:
        return None
    text = (
        f"Predictions sorted into {params.evaluate.bins} bins by confidence, all seeds "
        "together. On the grey line a run is right as often as it is sure; "
        f"below the line it is overconfident. Small hollow markers beside a line are bins of fewer "
        f"than {FEW} predictions: they say little."
    )
    return Section("calibration", "Calibration", [Text(text), Grid(figures)])
