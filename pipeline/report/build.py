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
from pipeline.report import accuracy, checks, masks, overview, words
from pipeline.report.accuracy import Runs
from pipeline.report.blocks import Section, join, more_text, slug
from pipeline.report.data import TRUTH, Dataset, Missing, load_dataset
from pipeline.report.pictures import Album
from pipeline.report.plots import styles


@dataclass(frozen=True)
class Part:
    """One dataset's part of the page."""

    name: str
    id: str
    synthetic: bool
    facts: list[str]
    warnings: list[str]
    missing: list[Missing]
    sections: list[Section]


def build_report(params: Params, paths: Paths, datasets: Sequence[str] | None = None) -> Path:
    """Write `paths.report` and return it.

    The page needs no network: styles, script and pictures are inside. The same files, parameters,
    commit and library versions give the same bytes; no date is written.

    Args:
        params: the runs to compare, sizes of pictures, and the parameters that the page lists.
        paths: the project folder.
        datasets: names; default `params.datasets`. One that was not evaluated gets a part that
            names the missing files and the commands that make them.
    """
    found = [load_dataset(name, params, paths) for name in datasets or params.datasets]
    runs = study_runs(params, found)
    albums = {data.name: Album(data, params.report.thumbnail) for data in found}
    parts = [part(data, albums[data.name], runs) for data in found]
    done = [data for data in found if data.headline is not None]
    synthetic = [data.name for data in found if data.synthetic]
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            words=words,
            more_text=more_text,
            rows=[overview.row(data, albums[data.name], runs) for data in found],
            legend=[(name, runs.looks[run]) for run, name in runs.names.items()],
            glance=accuracy.glance(done, runs) if done else None,
            reading=words.how_to_read(params),
            parts=parts,
            made=checks.made_section(params, Path(paths.root), found),
            synthetic=words.SYNTHETIC_SETS.format(join(synthetic)) if synthetic else "",
            css=_asset("style.css"),
            script=_asset("page.js"),
        )
    )
    atomic_write_text(paths.report, html)
    return paths.report


def study_runs(params: Params, datasets: Sequence[Dataset]) -> Runs:
    """Return the names of the study's runs and a style for every run of any dataset.

    The views of the baseline's learner in the ground-truth protocols come right after the study's
    runs, so that the lines of that plot differ too.
    """
    names = {run.key: run.name for run in params.study.runs}
    truth = [run for data in datasets for block in TRUTH for run in data.accuracy(block)]
    truth.sort(key=lambda run: run[0] != params.study.baseline.learner)
    other = [run for data in datasets for block in data.blocks for run in data.accuracy(block)]
    return Runs(names, styles([*names, *truth, *other]))


def part(data: Dataset, album: Album, runs: Runs) -> Part:
    """Build all sections of a dataset that its files allow."""
    made = [
        accuracy.section(data, runs),
        accuracy.truth_section(data, runs),
        masks.gallery_section(data, album, runs),
        masks.quality_section(data, album, runs),
        accuracy.errors_section(data, album, runs),
        accuracy.calibration_section(data, runs),
        checks.copies_section(data, album),
        masks.heat_section(data, album, runs),
        accuracy.quoted_section(data, runs),
        checks.records_section(data, album),  # last: it lists the masks that the others lost
    ]
    sections = [one for one in made if one is not None]
    return Part(
        data.name,
        slug("set", data.name),
        data.synthetic,
        overview.facts(data),
        checks.warnings(data, album),
        data.missing,
        sections,
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
