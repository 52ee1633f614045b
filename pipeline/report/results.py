"""The result pages in git: results/<dataset>.md and its CSV, results/README.md with the answers."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Params
from pipeline.io import atomic_write, atomic_write_text
from pipeline.paths import Paths
from pipeline.report import answers, results_text, select
from pipeline.report.differing import differing
from pipeline.report.fallbacks import outcomes_by_class
from pipeline.report.inputs import DatasetInputs, load_inputs
from pipeline.report.paper import OTHER_SET, quoted_table
from pipeline.report.remarks import evaluate_notes, plan_remarks, unfinished
from pipeline.report.results_readme import MADE_BY, bullets, made_by, readme_markdown
from pipeline.report.results_runs import calibration_table, seeds_table
from pipeline.report.results_tables import comparison_table
from pipeline.report.sections.mask_quality import mask_table, outcomes
from pipeline.report.sections.quoted import COUNTERPARTS, quoted_beside
from pipeline.report.sections.reproduce import DIFFERS, git_commit, parameters_text
from pipeline.report.sections.scores import (
    broken_runs,
    labels_rule,
    repeated_text,
    score_table,
)
from pipeline.report.sections.timings import timing_table
from pipeline.report.sections.truth_tables import dice_table, prompt_table
from pipeline.report.tables import Table, share, title

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
        datasets: names to write pages of; default `params.datasets`. The README tells of all
            of both; those without metrics are named there with the command that makes them.
    """
    asked = datasets or params.datasets
    made = made_by(params.datasets, asked)
    pages = [path for name in asked for path in write_pages(params, paths, name, made)]
    names = list(dict.fromkeys([*params.datasets, *asked]))
    return [*pages, write_readme(params, paths, names, made)]


def write_pages(params: Params, paths: Paths, dataset: str, made: str = MADE_BY) -> list[Path]:
    """Write the page and the tables of one dataset, if it has metrics; return their paths.

    `made` is the command that the page names as its own.
    """
    found = load_inputs(dataset, paths, params.evaluate)
    if found.metrics is None:
        return []
    page = paths.results / f"{dataset}.md"
    atomic_write_text(page, dataset_markdown(found, params, made))
    tables = {f"{dataset}.csv.gz": results_table(found)}
    if found.comparisons is not None:
        tables[f"{dataset}_comparisons.csv.gz"] = found.comparisons
    for name, table in tables.items():
        _write_csv(table, paths.results / name)
    return [page, *(paths.results / name for name in tables)]


def write_readme(
    params: Params, paths: Paths, datasets: Sequence[str], made: str = MADE_BY
) -> Path:
    """Write results/README.md, with the answers of all datasets; return its path."""
    found = [load_inputs(name, paths, params.evaluate) for name in datasets]
    provenance, commit = _provenance(found, params, made), git_commit(Path(paths.root))
    page = readme_markdown(found, provenance, SYNTHETIC, commit, made)
    atomic_write_text(paths.results / "README.md", page)
    return paths.results / "README.md"


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    text = table.to_csv(index=False, lineterminator="\n")
    with atomic_write(path) as partial:
        # Without time and file name in the header the same table is the same bytes.
        partial.write_bytes(gzip.compress(text.encode(), mtime=0))


def results_table(found: DatasetInputs) -> pd.DataFrame:
    """Return the metrics, all seeds and their summaries (seed "all"), as the CSV has them.

    The paper's figures stand in columns of their own, `quoted_<architecture>`, in the rows of
    accuracy over all seeds on the set's own test part, the only place where they may be read.
    """
    columns = ["protocol", "subset", "head", "view", "fraction", "seed", "metric"]
    columns += ["value", "lo", "hi", "t_lo", "t_hi", "n_labels", "n_images", "note"]
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
    numbers = [c for c in ("value", "lo", "hi", "t_lo", "t_hi") if c in table]
    table[numbers] = table[numbers].astype(float).round(5)
    return table


def dataset_markdown(found: DatasetInputs, params: Params, made: str = MADE_BY) -> str:
    """Return the page of one dataset, made by a command."""
    parts = [f"# {found.name}", _provenance([found], params, made)]
    if found.synthetic:
        parts.append(SYNTHETIC)
    parts += [f"> **Warning**: {text}" for text in unfinished(found)]
    if found.manifest is not None:
        parts.append(f"{len(found.manifest):,} images; classes: {', '.join(found.classes)}.")
    words = (
        results_text.masking,
        results_text.content,
        results_text.survival,
        results_text.baseline,
        answers.certainty,
    )
    parts += ["## In words", *filter(None, (say(found) for say in words))]
    if found.runs is not None and (found.runs["status"] != "ok").any():
        text, table = broken_runs(found.runs)
        parts += [text.text, table.markdown()]
    again = repeated_text(found)
    if again:
        parts.append(again)
    parts.append(labels_rule(found, params))
    remarks = plan_remarks(found)
    if remarks:
        parts += ["What the plan of the splits noted:", bullets(remarks)]
    for protocol, subset in select.distinct_blocks(found.metrics):
        parts.append(f"## {title(found.block_name(protocol, subset))}")
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
            if not select.over_seeds(found.metrics, protocol, subset, metric).empty:
                table = score_table(found, protocol, subset, metric)
                if metric == "accuracy":
                    notes = evaluate_notes(found.metrics, protocol, subset)
                    parts += [table.markdown(), notes]
                else:
                    parts.append(_folded(table, select.METRICS[metric]))
        seeds = seeds_table(found, protocol, subset)
        if seeds is not None:
            parts.append(_folded(seeds, "accuracy of every seed"))
    calibration = calibration_table(found)
    if calibration is not None:
        parts += ["## Calibration", calibration.markdown()]
    differences = comparison_table(found)
    if differences is not None:
        parts += ["## Paired differences", differences.markdown()]
    paper = found.quoted
    if paper:
        parts.append(f"## Beside the paper (quoted from its table {quoted_table(found.name)})")
        if found.name in OTHER_SET:
            parts.append(OTHER_SET[found.name])
        parts.append(quoted_beside(found, paper).markdown())
    parts += _masks(found)
    if found.records:
        parts += ["## Time per stage", timing_table(found).markdown()]
    differs = differing([found], params)
    parts += ["## Parameters", *([DIFFERS, bullets(differs)] if differs else [])]
    parts.append("```yaml\n" + parameters_text(params) + "```")
    return "\n\n".join(filter(None, parts)) + "\n"


def _masks(found: DatasetInputs) -> list[str]:
    """Return what became of the masks and how they compare with ground truth."""
    tables = []
    masks, quality, prompts = mask_table(found), found.mask_quality, found.prompt_quality
    if masks is not None:
        tables += [outcomes(masks), outcomes_by_class(masks)]
    if quality is not None and len(quality):
        tables.append(dice_table(found))
    if prompts is not None and len(prompts):
        tables.append(prompt_table(found))
    return ["## Masks", *(t.markdown() for t in tables)] if tables else []


def _folded(table: Table, name: str) -> str:
    """Return a table behind a line that opens it."""
    return f"<details><summary>{title(name)}</summary>\n\n{table.markdown()}\n\n</details>"


def _provenance(found: Sequence[DatasetInputs], params: Params, made: str) -> str:
    commit = git_commit(Path(found[0].paths.root))
    # README.md has the hashes of all sets beside the commands that make them again.
    manifest = found[0].manifest_hash if len(found) == 1 else ""
    manifest = manifest and f" Manifest: sha256 `{manifest}`."
    return (
        f"Made by `{made}`, at commit {commit}; profile "
        f"`{params.profile}` ({params.models.sam2.name}, {params.models.clip.name}), masks "
        f"prompted by `{params.segment.prompt}`.{manifest} Figures are accuracy in percent with "
        f"{share(params.evaluate.confidence)} intervals unless said otherwise; do not edit by hand."
    )
