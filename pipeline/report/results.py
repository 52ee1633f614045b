"""The result pages in git: results/<dataset>.md and .csv.gz, results/README.md with the answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.files import atomic_write, atomic_write_text
from pipeline.paths import Paths
from pipeline.report import answers, select
from pipeline.report.inputs import DatasetInputs, load_inputs
from pipeline.report.paper import OTHER_SET, quoted_table
from pipeline.report.sections.mask_quality import dice_table, mask_table, outcomes
from pipeline.report.sections.quoted import COUNTERPARTS, quoted_beside
from pipeline.report.sections.reproduce import git_commit, parameters_text
from pipeline.report.sections.scores import score_table
from pipeline.report.sections.summary import at_a_glance, findings, headline
from pipeline.report.sections.timings import timing_table
from pipeline.report.tables import title

SYNTHETIC = (
    "> **Synthetic data**: procedurally made phantoms; these figures say nothing of patients."
)


def write_results(
    params: Params, paths: Paths, datasets: Sequence[str] | None = None
) -> list[Path]:
    """Write the result pages from the tables of `evaluate` and return their paths.

    Every sentence of `results/README.md` that states a figure is generated from the data.

    Args:
        params: the parameters of the run.
        paths: the project folder; pages go to `paths.results`.
        datasets: names to write about; default `params.datasets`. Datasets without metrics
            are named in the README with the command that makes them.
    """
    found = [load_inputs(name, paths) for name in datasets or params.datasets]
    folder = paths.results
    written = []
    for one in found:
        if one.metrics is None:
            continue
        page, table = folder / f"{one.name}.md", folder / f"{one.name}.csv.gz"
        atomic_write_text(page, dataset_markdown(one, params))
        with atomic_write(table) as partial:
            # Without the time in the header the same table is the same bytes.
            packed = {"method": "gzip", "mtime": 0}
            results_table(one).to_csv(partial, index=False, lineterminator="\n", compression=packed)
        written += [page, table]
    atomic_write_text(folder / "README.md", answers_markdown(found, params, paths))
    return [*written, folder / "README.md"]


def results_table(found: DatasetInputs) -> pd.DataFrame:
    """Return the metrics, all seeds and their summaries (seed "all"), as the CSV has them.

    The paper's figures stand in columns of their own, `quoted_<architecture>`, in the rows of
    accuracy over all seeds on the set's own test part, the only place where they may be read.
    """
    columns = ["protocol", "subset", "head", "view", "fraction", "seed", "metric"]
    columns += ["value", "lo", "hi", "n_labels", "n_images", "note"]
    table = found.metrics[[c for c in columns if c in found.metrics]].copy()
    table["fraction"] = table["fraction"].astype(float).round(4)
    for name, run in COUNTERPARTS.items():
        points = found.quoted.get(name, {})
        here = (
            (table["protocol"] == "official")
            & (table["subset"] == "full")
            & (table["metric"] == "accuracy")
            & (table["seed"] == -1)
            & (table["head"] == run[0])
            & (table["view"] == run[1])
        )
        table[f"quoted_{name}"] = table["fraction"].map(points).where(here, np.nan)
    table = table.sort_values(columns[:7], kind="stable")
    table["seed"] = table["seed"].astype(str).replace("-1", "all")
    numbers = ["value", "lo", "hi"]
    table[numbers] = table[numbers].astype(float).round(5)
    return table


def dataset_markdown(found: DatasetInputs, params: Params) -> str:
    """Return the page of one dataset."""
    name = found.name
    parts = [f"# {name}", _provenance(found.paths, params, [name])]
    if found.synthetic:
        parts.append(SYNTHETIC)
    if found.manifest is not None:
        parts.append(f"{len(found.manifest):,} images; classes: {', '.join(found.classes)}.")
    parts += ["## In words", _bullets([headline(found), *findings(found)])]
    for protocol, subset in select.blocks(found.metrics):
        parts.append(f"## {title(select.block_name(protocol, subset))}")
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
            if not select.over_seeds(found.metrics, protocol, subset, metric).empty:
                parts.append(score_table(found.metrics, protocol, subset, metric).markdown())
    differences = [*answers.masking(found), *answers.method(found)]
    if differences:
        parts += ["## Paired differences", _bullets(differences)]
    paper = found.quoted
    if paper:
        parts.append(f"## Beside the paper (quoted from its table {quoted_table(name)})")
        if name in OTHER_SET:
            parts.append(OTHER_SET[name])
        parts.append(quoted_beside(found, paper).markdown())
    masks = mask_table(found)
    quality = found.mask_quality
    if masks is not None or (quality is not None and len(quality)):
        parts.append("## Masks")
        if masks is not None:
            parts.append(outcomes(masks).markdown())
        if quality is not None and len(quality):
            parts.append(dice_table(quality).markdown())
    if found.records:
        parts += ["## Time per stage", timing_table(found).markdown()]
    parts.append("## Parameters\n\n```yaml\n" + parameters_text(params) + "```")
    return "\n\n".join(parts) + "\n"


def answers_markdown(found: Sequence[DatasetInputs], params: Params, paths: Paths) -> str:
    """Return results/README.md: the questions of the study and what was measured."""
    done = [one for one in found if one.metrics is not None]
    parts = ["# Results", _provenance(paths, params, [one.name for one in found])]
    missing = [one for one in found if one.metrics is None]
    for one in missing:
        parts.append(
            f"`{one.name}` has not been evaluated: `pipeline evaluate --dataset {one.name}`."
        )
    if not done:
        return "\n\n".join(parts) + "\n"
    if any(one.synthetic for one in done):
        parts.append(SYNTHETIC)
    parts.append(
        "Pages: " + ", ".join(f"[{d.name}]({d.name}.md) ([CSV]({d.name}.csv.gz))" for d in done)
    )
    parts += ["## At a glance", at_a_glance(done).markdown()]
    questions = {
        "Does masking help, where, and by how much?": lambda d: [
            headline(d),
            *answers.masking(d),
            *answers.method(d),
        ],
        "Does the content of the mask matter?": lambda d: [
            *answers.mask_information(d),
            *_optional("Masks against ground truth: ", answers.dice(d)),
        ],
        "How much survives clean and grouped splits?": lambda d: [
            *_optional("", answers.leaking(d)),
            *_optional("", answers.survival(d)),
            *_optional("", answers.survival(d, select.METHOD)),
            *_beside_paper(d),
        ],
        "Which baseline is the one to beat?": lambda d: _optional("", answers.best_baseline(d)),
        "How sure?": lambda d: _optional("", answers.certainty(d)),
    }
    for question, answer in questions.items():
        parts.append(f"## {question}")
        for one in done:
            said = answer(one)
            parts.append(f"### {one.name}\n\n" + (_bullets(said) if said else "Not measured."))
    return "\n\n".join(parts) + "\n"


def _beside_paper(found: DatasetInputs) -> list[str]:
    """Set the paper's figure for all labels beside ours; quoted figures are named so."""
    points = found.quoted.get("MedFocusCLIP")
    if not points:
        return []
    text = (
        f"Quoted from the paper, MedFocusCLIP with all labels: {100 * points[max(points)]:.2f} %."
    )
    return [f"{text} {OTHER_SET[found.name]}" if found.name in OTHER_SET else text]


def _optional(start: str, text: str | None) -> list[str]:
    return [f"{start}{text}"] if text else []


def _bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _provenance(paths: Paths, params: Params, names: Sequence[str]) -> str:
    flags = " ".join(f"--dataset {name}" for name in names)
    return (
        f"Made by `pipeline results {flags}` at commit {git_commit(Path(paths.root))}; profile "
        f"`{params.profile}` ({params.models.sam2.name}, {params.models.clip.name}), masks "
        f"prompted by `{params.segment.prompt}`. Figures are accuracy in percent with 95 % "
        "intervals unless said otherwise; do not edit by hand."
    )
