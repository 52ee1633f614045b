"""Build the report: one self-contained HTML page for all datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2

from pipeline.config import Params
from pipeline.io import atomic_write_text
from pipeline.paths import Paths
from pipeline.report import select
from pipeline.report.answers import leaking
from pipeline.report.differing import differing
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs, Missing, load_inputs
from pipeline.report.page import Section
from pipeline.report.remarks import unfinished
from pipeline.report.sections import DATASET_SECTIONS, PUBLISHED_ONLY
from pipeline.report.sections.reproduce import reproduce
from pipeline.report.sections.summary import summary


@dataclass(frozen=True)
class DatasetPage:
    """One dataset's part of the page; `copies` says how many test images have one in train."""

    name: str
    id: str
    synthetic: bool
    copies: str
    images: int | None
    classes: list[str]
    warnings: list[str]
    missing: list[Missing]
    sections: list[Section]


def build_report(params: Params, paths: Paths, datasets: Sequence[str] | None = None) -> Path:
    """Write `paths.report` and return it.

    The page needs no network: styles, scripts and pictures are inside. The same files, `params`,
    git commit and installed versions, which it names, give the same bytes: no clock enters it. A
    dataset without metrics gets a section that says which command makes them.

    Args:
        params: the parameters of the run (shown in the page, and sizes of pictures).
        paths: where the files of `evaluate`, the stores, the records and the images lie.
        datasets: names to report on; default `params.datasets`.
    """
    names = list(datasets or params.datasets)
    found = [load_inputs(name, paths, params.evaluate) for name in names]
    pages = [dataset_page(one, params) for one in found]
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            summary=summary(found, params),
            pages=pages,
            reproduce=reproduce(params, Path(paths.root), names, differing(found, params)),
            synthetic=[p.name for p in pages if p.synthetic],
            css=_asset("style.css"),
            script=_asset("page.js"),
        )
    )
    atomic_write_text(paths.report, html)
    return paths.report


def dataset_page(found: DatasetInputs, params: Params) -> DatasetPage:
    """Build all sections of one dataset that its files allow."""
    album = Album(found, params.report.thumbnail)
    base = select.slug("set", found.name)
    sections = []
    for make in DATASET_SECTIONS:
        made = make(found, album, params)
        if made is not None:
            made.id = f"{base}-{made.key}"
            if found.metrics is not None and made.key in PUBLISHED_ONLY:
                made.split = select.short_name(*select.PUBLISHED, drawn=found.drawn_split)
            sections.append(made)
    images = None if found.manifest is None else len(found.manifest)
    return DatasetPage(
        found.name,
        base,
        found.synthetic,
        "" if found.drawn_split else leaking(found) or "",
        images,
        found.classes,
        unfinished(found),
        found.missing,
        sections,
    )


@cache
def _environment() -> jinja2.Environment:
    folder = Path(__file__).parent / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
