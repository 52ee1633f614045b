"""results/README.md: three questions, a paragraph a dataset each, one table each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.report import answers, results_text
from pipeline.report.inputs import DatasetInputs
from pipeline.report.results_tables import (
    information_table,
    masking_table,
    prompts_overview,
    time_table,
    views_table,
)
from pipeline.report.sections.reproduce import STEPS
from pipeline.report.sections.summary import at_a_glance
from pipeline.report.tables import Table, head

MADE_BY = "dvc repro && dvc repro results/dvc.yaml"
SURE = (
    "Intervals are {level}, over seeds (which images train) and over test images, in whole units "
    "of patient, group and copies where these are known; the part of the seeds is as wide as "
    "Student's t makes it for so few. Differences are paired. Grouped figures are the ones to "
    "trust."
)
CSV = (
    "In the CSV `lo` and `hi` are that interval; `t_lo` and `t_hi` are the t-interval over the "
    "seeds alone: which images train, not which are tested. Empty ends: `note` says why."
)
AGAIN = (
    "From the images of each set to these pages. Which options `data add` was given is not "
    "recorded with a manifest; docs/benchmarks.md has the line of each set. A manifest that comes "
    "out the same has the same sha256."
)


def made_by(known: Sequence[str], asked: Sequence[str]) -> str:
    """Return the command that makes pages: DVC's if they are of the datasets of params.yaml
    (`known`), all of them and no other; else the one that was given."""
    if set(asked) == set(known):
        return MADE_BY
    return " ".join(["pipeline results", *(f"--dataset {name}" for name in asked)])


def readme_markdown(
    found: Sequence[DatasetInputs],
    provenance: str,
    synthetic: str,
    commit: str,
    made: str = MADE_BY,
) -> str:
    """Return the page.

    Args:
        found: the datasets; those without metrics are named with the command that makes them.
        provenance: what made the page.
        synthetic: the label of synthetic data, put where any dataset is.
        commit: of the project folder, in words.
        made: the command that made the page (`made_by`).
    """
    done = [one for one in found if one.metrics is not None]
    parts = ["# Results", provenance]
    parts += [
        f"`{one.name}` has not been evaluated: `pipeline evaluate --dataset {one.name}`."
        for one in found
        if one.metrics is None
    ]
    if not done:
        return "\n\n".join(parts) + "\n"
    if any(one.synthetic for one in done):
        parts.append(synthetic)
    parts.append(f"Every figure and every seed, every comparison: {', '.join(map(_files, done))}.")
    parts += ["## In short", bullets(results_text.over_all(done))]
    parts += _question(
        "Does masking help, where, and by how much?",
        done,
        results_text.masking,
        masking_table(done),
        views_table(done),
    )
    parts += _question(
        "Does the mask carry information?",
        done,
        results_text.content,
        information_table(done),
        prompts_overview(done),
    )
    parts += _question(
        "How much of the figures survives clean and grouped splits?",
        done,
        results_text.survival,
        at_a_glance(done),
    )
    parts += _question("Which baseline is the one to beat?", done, results_text.baseline)
    sure = [f"{one.name}: {answers.certainty(one)}" for one in done]
    parts += ["## How sure?", SURE.format(level=done[0].level), bullets(sure), CSV]
    times = time_table(done)
    if times is not None:
        parts += ["## Time per stage", times.markdown()]
    parts += ["## Making these results again", AGAIN, again(found, commit, made)]
    return "\n\n".join(parts) + "\n"


def again(found: Sequence[DatasetInputs], commit: str, made: str = MADE_BY) -> str:
    """Return the commands that lead from images to these pages, and the hash of each manifest."""
    lines = [f"# commit: {commit}"]
    lines += [f"pipeline data add {one.name} --from FOLDER ..." for one in found]
    if made != MADE_BY:  # nor does DVC run the stages of a set that params.yaml lacks
        lines += [
            f"for name in {' '.join(one.name for one in found)}; do",
            f"  for stage in {' '.join(STEPS)}; do pipeline $stage --dataset $name; done",
            "done",
        ]
    commands = "\n".join([*lines, made])
    rows = [
        [head(one.name), f"`data_manifests/{one.name}.csv`", f"`{one.manifest_hash}`"]
        for one in found
        if one.manifest_hash
    ]
    table = Table(["data set", "manifest", "sha256"], rows).markdown() if rows else ""
    return "\n\n".join(filter(None, [f"```sh\n{commands}\n```", table]))


def _files(found: DatasetInputs) -> str:
    name = found.name
    compared = found.comparisons is not None
    more = f", [comparisons]({name}_comparisons.csv.gz)" if compared else ""
    return f"[{name}]({name}.md) ([CSV]({name}.csv.gz){more})"


def bullets(items: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {item}" for item in items)


def _question(
    question: str,
    done: Sequence[DatasetInputs],
    answer: Callable[[DatasetInputs], str | None],
    *tables: Table | None,
) -> list[str]:
    """Return the question, a paragraph for each dataset that has an answer, then its tables."""
    said = [(one.name, answer(one)) for one in done]
    paragraphs = [f"**{name}.** {text}" for name, text in said if text]
    if not paragraphs:
        return []
    return [f"## {question}", *paragraphs, *(t.markdown() for t in tables if t is not None)]
