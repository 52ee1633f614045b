"""The gallery with mask outlines (the paper's Fig. 3), worst first."""

from __future__ import annotations

from pipeline.config import Params
from pipeline.report import select
from pipeline.report.cases import image_cases
from pipeline.report.gallery import OUTLINES, Album, Gallery, spread
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Section, Text
from pipeline.report.tables import number, share


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show test images sorted by the probability of the true class under the method."""
    count = params.report.gallery
    if found.metrics is not None:
        table = select.over_seeds(found.metrics, "official", "full")
        fractions = select.fractions_of(table)
        for run in select.reference_runs(table):
            cases = image_cases(found, "official", *run, fractions[-1]) if fractions else None
            if cases is not None:
                ordered = cases.sort_values(["p_true", "right"], kind="stable")
                return _cases(ordered, count, album, select.run_name(*run), fractions[-1])
    if found.manifest is None or found.masks is None:
        return None
    ids = spread(list(found.manifest["image_id"]), count)
    text = Text("No predictions yet: images of the manifest in its order. " + OUTLINES)
    return Section("gallery", "Images and masks", [text, Gallery("", album.pictures(_plain(ids)))])


def _plain(ids: list[str]) -> list[tuple[str, str]]:
    return [(i, "") for i in ids]


def _cases(ordered, count: int, album: Album, name: str, fraction: float) -> Section:
    shown = spread(list(ordered.index), count)
    pictures = []
    for image_id in shown:
        r = ordered.loc[image_id]
        said = r["y_true"] if r["y_true"] == r["y_pred"] else f"{r['y_true']}, called {r['y_pred']}"
        pictures.append(album.picture(image_id, f"{said}; p(true) {number(r['p_true'], 2)}"))
    text = (
        f"Test images of the set's own split under “{name}” with {share(fraction)} of the labels, "
        "sorted by the probability of the true class (mean over the seeds), worst first: "
        "the first half are the worst of all, the others lie evenly between them and the best. "
    )
    return Section("gallery", "Images and masks", [Text(text + OUTLINES), Gallery("", pictures)])
