"""The comparison: each row of the study with its accuracy and its paired differences.

A row is compared with three others, always on the same test images and seeds: with the baseline of
the study; with the best row that sees the whole image alone; and with its own control, which has a
random region or crop in the mask's place, so that only the difference to it is the mask's. Which
row is the best, and which row with the mask is `picked`, the validation parts decide, never a test
image. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pipeline.audit.table import read_audit
from pipeline.config import EvaluateParams, Params
from pipeline.evaluate.predictions import blocks, image_units, read_runs
from pipeline.evaluate.scores import METRICS, Scored, compare_pairs, holm, score_block, verdict
from pipeline.io import atomic_write_text, csv_text
from pipeline.learners.choose import control_of, kind_of
from pipeline.learners.runs import fit_seconds, read_runs_table, run_inputs, write_table
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.provenance import stamp

MEAN = -1.0
"""Fraction of the rows that are means over all shares of labels."""
SHOWN = ("accuracy", "macro_f1", "macro_auroc")
OTHERS = ("baseline", "best", "control")
"""What a row is compared with."""
NUMBERS = ("difference", "lo", "hi", "p", "p_holm")
NO_FIT = {"n_fractions": 1, "val_accuracy": np.nan, "n_parameters": 0, "seconds": np.nan}
"""What `fit_facts` returns of each fit, where it has none."""
INTS = "number shots n_fractions n_labels n_images n_seeds n_parameters"


def compare_dataset(dataset: str, params: Params, paths: Paths) -> pd.DataFrame:
    """Write compare.parquet and compare.csv of a dataset, and return the table.

    Its columns are in docs/tables.md. Read are the predictions of the learners of `study.runs`, the
    manifest, and audit.parquet, if any.

    Raises:
        PipelineError: a learner of the study was not trained, or its predictions were made from
            other images, labels or features than those there now.
    """
    manifest = read_manifest(paths.manifest(dataset))
    audit = read_audit(paths.audit(dataset), manifest)
    learners = dict.fromkeys(run.learner for run in params.study.runs)
    runs, classes = read_runs(dataset, learners, paths)
    units, facts = image_units(manifest, audit), fit_facts(dataset, learners, paths)
    wanted = {run.key for run in params.study.runs}
    mine, rows = [run for run in runs if run.key in wanted], []
    for protocol, subset, block in blocks(mine, manifest, audit):
        if protocol.endswith("-pooled") or subset not in ("full", "clean"):
            continue
        with threadpool_limits(limits=1):  # sums in one order: the same bits on any machine
            scored = score_block(block, units, classes, params.evaluate)
            if "-" not in protocol:  # shots are no shares
                scored += means_over_shares(scored)
            found = block_rows(scored, facts, params)
        rows += [{"dataset": dataset, **row, "subset": subset} for row in found]
    order = ["protocol", "subset", "number", "fraction"]
    table = pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True)
    table = table.astype(dict.fromkeys(INTS.split(), "int64"))
    sources = {f"predictions/{name}": paths.predictions(dataset, name) for name in learners}
    inputs = stamp(**run_inputs(paths, dataset), **sources)
    atomic_write_text(paths.plots(dataset) / "compare.csv", csv_text(table))
    write_table(paths.compare(dataset), table, inputs, "snappy")
    return table


def fit_facts(dataset: str, learners: Iterable[str], paths: Paths) -> pd.DataFrame:
    """Return val_accuracy, n_parameters, seconds (of the seeds) and n_fractions of each run by
    protocol, learner, view and fraction; with the rows of `MEAN`."""
    tables = []
    for name in learners:
        table = read_runs_table(paths, dataset, name).query("status == 'ok'")
        seconds = table["digest"].map(fit_seconds(paths.seconds(dataset, name)))
        tables.append(table.assign(seconds=seconds.astype(float)))
    key = ["protocol", "learner", "view"]
    summed = {
        "val_accuracy": ("val_score", "mean"),
        "n_parameters": ("n_parameters", "median"),
        "seconds": ("seconds", "median"),  # the first fit of a process loads libraries
    }
    each = pd.concat(tables).groupby([*key, "fraction"]).agg(**summed)
    by_run = each.groupby(level=key)
    means = by_run.agg("mean").assign(
        n_parameters=by_run["n_parameters"].last(), n_fractions=by_run.size()
    )
    return pd.concat(
        [each.assign(n_fractions=1), means.assign(fraction=MEAN).set_index("fraction", append=True)]
    )


def means_over_shares(scored: list[Scored]) -> list[Scored]:
    """Return for each run with several shares of labels the mean of its metrics over them, of the
    seeds that all shares have: replicates of a mean are the means of replicates, since all shares
    are tested on the same resamples."""
    by_run: dict[tuple, list[Scored]] = {}
    for one in scored:
        if one.run.fraction > 0 and one.run.seeds:
            by_run.setdefault(one.run.key, []).append(one)
    found = []
    for shares in by_run.values():
        last = max(shares, key=lambda one: one.run.fraction)
        seeds = [s for s in last.run.seeds if all(s in one.run.seeds for one in shares)]
        if len(shares) < 2 or not seeds:
            continue
        rows = [[[*one.run.seeds].index(seed) for seed in seeds] for one in shares]

        def mean(of: str, shares=shares, rows=rows) -> np.ndarray:
            parts = [getattr(one, of)[at] for one, at in zip(shares, rows, strict=True)]
            return np.mean(parts, axis=0)

        at = rows[shares.index(last)]
        kept = {of: getattr(last, of)[at] for of in ("sums", "units", "incomplete", "test_sets")}
        run = replace(last.run, fraction=MEAN, seeds={seed: last.run.seeds[seed] for seed in seeds})
        means = {of: mean(of) for of in ("values", "replicates")}
        found.append(replace(last, run=run, **means, **kept))
    return found


def block_rows(scored: list[Scored], facts: pd.DataFrame, params: Params) -> list[dict[str, Any]]:
    """Return the rows of one protocol and subset, without the subset."""
    names = {run.key: (number, run.name) for number, run in enumerate(params.study.runs)}
    found = []
    for fraction in sorted({one.run.fraction for one in scored}):
        same = [one for one in scored if one.run.fraction == fraction]
        same.sort(key=lambda one: names[one.run.key][0])
        rows = [one_row(one, facts, names, params.evaluate) for one in same]
        by_key = {one.run.key: (row, one) for row, one in zip(rows, same, strict=True)}
        base = by_key.get(params.study.baseline.key)
        shares = base[0]["n_fractions"] if base else 1
        # A mean over fewer seeds is more often the best by chance.
        seeds = max(row["n_seeds"] for row in rows)
        full = [row for row in rows if (row["n_fractions"], row["n_seeds"]) == (shares, seeds)]
        best, picked = best_on_validation(full, "whole"), best_on_validation(full, "mask")
        if picked is not None:
            picked["picked"] = True
        others = {"baseline": base, "best": base}
        if best:
            others["best"] = by_key[best["learner"], best["view"]]
        for group in OTHERS:
            pairs = []
            for row, one in by_key.values():
                key = (row["learner"], control_of(row["view"]))
                other = by_key.get(key) if group == "control" else others[group]
                if other is None or other[1] is one or fraction == 0:
                    continue
                # A mean over fewer shares is of harder tasks.
                if row["n_fractions"] == other[0]["n_fractions"]:
                    pairs.append((one, other[1]))
            for gap in compare_pairs(pairs, params.evaluate):
                if gap["metric"] == "accuracy":
                    row, _ = by_key[gap["learner_a"], gap["view_a"]]
                    row |= {f"{group}_{name}": gap[name] for name in (*NUMBERS, "verdict")}
                    row[f"{group}_name"] = names[gap["learner_b"], gap["view_b"]][1]
        found += rows
    return found


def best_on_validation(rows: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """Return the row of a kind with the highest accuracy on validation, the first of equal ones;
    None where no row of that kind has one."""
    judged = [row for row in rows if row["kind"] == kind and not np.isnan(row["val_accuracy"])]
    return max(judged, key=lambda row: row["val_accuracy"], default=None)


def one_row(
    one: Scored, facts: pd.DataFrame, names: dict[tuple, tuple[int, str]], params: EvaluateParams
) -> dict[str, Any]:
    """Return the row of one run, not yet compared with others."""
    run, (number, name) = one.run, names[one.run.key]
    split, *shots = run.protocol.split("-")
    row = {"number": number, "name": name, "learner": run.learner, "view": run.view}
    row |= {"kind": kind_of(run.view), "protocol": run.protocol, "split": split}
    row |= {"shots": int(shots[0]) if shots else 0, "realistic": "realistic" in shots}
    row |= {"subset": "", "fraction": run.fraction}
    row["n_labels"] = round(np.median([*run.labels.values()]))
    row |= {"n_images": len(run.image_ids), "n_seeds": len(run.seeds)}
    mean = one.mean(params) if run.seeds else {}
    for metric in SHOWN:
        for end, of in {"": "value", "_lo": "lo", "_hi": "hi"}.items():
            row[f"{metric}{end}"] = mean[of][METRICS.index(metric)] if mean else np.nan
    key = (run.protocol, run.learner, run.view, run.fraction)
    row |= NO_FIT | (facts.loc[key].to_dict() if key in facts.index else {})
    failed = [f"seed {seed} {error}" for seed, error in sorted(run.failed.items())]
    row |= {"picked": False, "note": "; ".join(failed)}
    for group in OTHERS:
        row |= {f"{group}_name": "", **{f"{group}_{column}": np.nan for column in NUMBERS}}
        row[f"{group}_verdict"] = ""
    return row


def over_sets(paths: Paths, datasets: Iterable[str]) -> pd.DataFrame:
    """Return what the row picked on validation gains over the baseline in the mean over shares, one
    row per protocol (grouped, official) and dataset that was compared; p_holm is Holm's correction
    over the datasets of a protocol."""
    means = "subset == 'full' and fraction == -1 and protocol in ['grouped', 'official']"
    files, found = map(paths.compare, datasets), []
    for table in (pd.read_parquet(file).query(means) for file in files if file.is_file()):
        if table["picked"].any():
            picked, base = table[table["picked"]], table[table["number"] == 0]
            base = picked["protocol"].map(base.set_index("protocol")["accuracy"])
            found.append(picked.assign(baseline_accuracy=base))
    if not found:
        return pd.DataFrame()
    about = ["dataset", "protocol", "name", "accuracy", "baseline_accuracy", "control_difference"]
    gaps = {f"baseline_{name}": name for name in NUMBERS[:4]}
    table = pd.concat(found)[[*about, "control_verdict", *gaps]].rename(columns=gaps)
    table = table.sort_values("protocol", kind="stable", ignore_index=True)
    table["p_holm"] = table.groupby("protocol")["p"].transform(lambda p: holm(p.to_numpy()))
    said = zip(table["lo"], table["hi"], table["p_holm"], strict=True)
    return table.assign(verdict=[verdict(*one) for one in said])
