"""The whole comparison by one command: train what the rows of the study lack, then compare them.

A cell is a row of the study at one share of labels or number of shots, with all its protocols and
seeds. Each finished fit is stored at once (`pipeline.learners.train`), so that a further row costs
that row, and after a kill the same command goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.config import Params
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, StageFailed
from pipeline.evaluate.comparison import compare_dataset, over_sets
from pipeline.io import atomic_write
from pipeline.learners.base import find_learner
from pipeline.learners.train import RunKey, Watch, plan_runs, train_dataset
from pipeline.paths import Paths, QuickPaths
from pipeline.splits import load_split_plan


def compare_study(
    datasets: Sequence[str],
    params: Params,
    paths: Paths,
    *,
    quick: bool = False,
    jobs: int = -1,
    options: RunOptions = RunOptions(),
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Train and compare the rows of `study.runs` on some datasets.

    Args:
        datasets: names.
        params, paths: of the project.
        quick: two seeds, the smallest and the largest share and one number of shots, in a folder of
            their own: they replace no full result, and use the fits of full ones.
        jobs: parallel processes, -1 for one per core.
        options: the engine whose workers fit, instead of `jobs`.

    Returns:
        The table of each dataset (docs/tables.md, compare.parquet), and `over_sets` of them.

    Raises:
        ConfigError: a row of the study is trained on no protocol.
        StageFailed: every fit of a learner failed; the others are trained and compared.
        PipelineError: as `train_dataset` and `compare_dataset`.
    """
    names = dict.fromkeys(run.learner for run in params.study.runs)
    # A learner that another one starts from comes first, as in params.yaml.
    learners = [*(name for name in params.learners if name in names), *names]
    full, failed, tables = paths, None, {}
    if quick:
        params, paths = quick_params(params), QuickPaths(**vars(paths))
    for dataset in datasets:
        planned = planned_runs(dataset, params, paths)
        if quick:
            keep_full_fits(dataset, learners, full, paths)
        try:
            with shown(dataset, params, planned) as watch:
                given = {"jobs": jobs, "watch": watch, "options": options}
                train_dataset(dataset, params, paths, learners, **given)
        except StageFailed as error:
            failed = error
        tables[dataset] = compare_dataset(dataset, params, paths)
    if failed is not None:
        raise failed
    return tables, over_sets(paths, datasets)


def quick_params(params: Params) -> Params:
    """Return parameters with two seeds, the smallest and the largest share, and one number of
    shots, for each learner."""

    def ends(values: Sequence[float]) -> list[float]:
        return list(dict.fromkeys([values[0], values[-1]]))

    learners = {}
    for name, section in params.learners.items():
        seeds = {"seeds": [*section["seeds"]][:2]} if section.get("seeds") else {}
        shares = {"fractions": ends(section["fractions"])} if "fractions" in section else {}
        learners[name] = dict(section) | seeds | shares
    shots = {kind: of[(len(of) - 1) // 2 :][:1] for kind, of in params.splits.shots.items()}
    fewer = {"fractions": tuple(ends(params.splits.fractions)), "shots": shots}
    splits = params.splits.model_copy(update=fewer)
    train = params.train.model_copy(update={"seeds": params.train.seeds[:2]})
    print(
        f"quick: seeds {', '.join(map(str, train.seeds))}, shares "
        f"{', '.join(map(str, splits.fractions))}; kept apart in cache/DATASET/quick/, "
        "no full result is replaced",
        file=sys.stderr,
    )
    return params.model_copy(update={"splits": splits, "train": train, "learners": learners})


def keep_full_fits(dataset: str, learners: Sequence[str], full: Paths, quick: Paths) -> None:
    """Give the quick runs the fits of full ones, which are the same."""
    for name in learners:
        fits, kept = (paths.run(dataset, name) / "fitted.safetensors" for paths in (full, quick))
        for source, target in (
            (full.seconds(dataset, name), quick.seconds(dataset, name)),
            (fits, kept),
        ):
            if source.is_file() and not kept.exists():
                with atomic_write(target) as partial:
                    shutil.copyfile(source, partial)


def planned_runs(dataset: str, params: Params, paths: Paths) -> dict[str, list[RunKey]]:
    """Return all runs of each learner of the study. A row on true masks has no run on a dataset
    without masks.

    Raises:
        ConfigError: the view of a row is among no views of its learner.
    """
    plan, planned, views = load_split_plan(dataset, params, paths), {}, {}
    for run in params.study.runs:
        if run.learner not in planned:
            cls, own = find_learner(run.learner, params.learners.get(run.learner, {}), paths.root)
            planned[run.learner] = list(plan_runs(cls, own, plan, params)[0])
            views[run.learner] = {*chain(*(own.views or params.train.views).values())}
        if run.view not in views[run.learner]:
            raise ConfigError(
                f"study: row {run.name!r}: {run.learner} is not trained on view {run.view}",
                remedy=f"add the view to learners.{run.learner}.views or train.views",
            )
    return planned


@contextmanager
def shown(
    dataset: str, params: Params, planned: Mapping[str, list[RunKey]]
) -> Iterator[Watch | None]:
    """Show a live table of the cells done and to come on a terminal, and yield what it is told of;
    elsewhere None: `train` then prints plain lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        cells = sum(map(len, planned.values()))
        print(f"compare {dataset}: {cells} runs of {len(planned)} learners", file=sys.stderr)
        yield None
        return
    states = {(name, key): "waits" for name, keys in planned.items() for key in keys}
    with Live(cells_table(dataset, params, states), console=console, auto_refresh=False) as live:

        def watch(learner: str, changed: Mapping[RunKey, str]) -> None:
            states.update({(learner, key): state for key, state in changed.items()})
            live.update(cells_table(dataset, params, states), refresh=True)

        yield watch


def cells_table(dataset: str, params: Params, states: Mapping[tuple[str, RunKey], str]) -> Table:
    """Return the table of the study: of each row and share "done/all" runs, "!" if one failed."""
    cells: dict[tuple, Counter] = {}
    for (learner, (protocol, view, fraction, _)), state in states.items():
        column = (1, *map(int, protocol.split("-")[1:2]), protocol.count("-") > 2)
        column = column if "-" in protocol else (0, fraction, False)
        cells.setdefault((learner, view, column), Counter())[state] += 1
    columns = sorted({column for _, _, column in cells})
    table = Table(title=f"{dataset}: runs done")
    for text in ["", *(f"{v:.0%}" if not shot else f"K={v}{'r' * r}" for shot, v, r in columns)]:
        table.add_column(text, justify="right" if text else "left", no_wrap=True)
    for run in params.study.runs:
        found = [cells.get((*run.key, column), Counter()) for column in columns]
        texts = [f"{c['done']}/{c.total()}{'!' * (c['failed'] > 0)}" if c else "" for c in found]
        table.add_row(run.name, *texts)
    return table


def comparison_text(tables: Mapping[str, pd.DataFrame], sets: pd.DataFrame) -> str:
    """Return the rows of each dataset in words: the mean over shares in grouped cross-validation
    (else of the published split), what the mask gains, and the row that validation picked."""
    lines = []
    for dataset, table in tables.items():
        full = table[(table["subset"] == "full") & (table["shots"] == 0)]
        protocol = "grouped" if (full["protocol"] == "grouped").any() else "official"
        full = full[full["protocol"] == protocol]
        share = full["fraction"].min() if (full["fraction"] == -1).any() else full["fraction"].max()
        rows = full[full["fraction"].isin([share, 0.0])].sort_values("number")
        at = "mean over shares" if share == -1 else f"{share:.0%} of the labels"
        lines.append(f"{dataset}, {protocol}, {at}: accuracy, difference to the baseline")
        for row in rows.itertuples():
            text = f"  {row.name:<28} {100 * row.accuracy:5.1f}"
            text += f" [{100 * row.accuracy_lo:.1f}, {100 * row.accuracy_hi:.1f}]"
            if row.baseline_name:
                text += f"  {100 * row.baseline_difference:+.1f} ({row.baseline_verdict})"
            lines.append(text + ("  <- picked on validation" if row.picked else ""))
    for row in sets.itertuples():
        lines.append(
            f"{row.dataset}, {row.protocol}: {row.name}, picked on validation: "
            f"{100 * row.difference:+.1f} [{100 * row.lo:.1f}, {100 * row.hi:.1f}] against the "
            f"baseline, p after Holm over sets {row.p_holm:.2g}: {row.verdict}"
        )
    return "\n".join(lines)
