"""What each part of the method is worth: one part changed at a time -> cache/ablations.csv

Each variant is a small project of its own below ablations/, with the images, manifest and audit of
this one, and its stores where the variant leaves them as they are. It does what `segment`,
`encode`, `train` and `compare` do; started again, it goes on where it was. `pipeline results` puts
the tables into results/ablations.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from pipeline.config import Params, load_params, parts_of
from pipeline.encode.encode import encode_dataset
from pipeline.errors import ConfigError
from pipeline.evaluate.comparison import MEAN, compare_dataset
from pipeline.io import atomic_write_text, csv_text
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from pipeline.remote import is_url
from pipeline.report.words import LEARNERS, slug
from pipeline.segment.segment import segment_dataset

PROBE, METHOD = "linear-probe", "medfocus-probe"
PROBED = [(PROBE, "masked"), (PROBE, "whole+masked"), (PROBE, "whole+crop")]


class Ablation(NamedTuple):
    """A part of the method: its variants (changed values of params.yaml by dotted key), the runs
    they are seen in, and whether the features of the project stay as they are."""

    variants: dict[str, dict[str, Any]]
    runs: list[tuple[str, str]]
    same_features: bool = False


TEMPLATES = "templates"
"""Key of a change of prompts.yaml instead: the templates of all datasets."""
FORMS = ("attention", "gated-sum", "concat-mlp", "bilinear", "token-attention")
ABLATIONS = {
    "Prompt of SAM2": Ablation(
        {x: {"segment.prompt": x} for x in ("salient-refine", "salient", "auto", "center-box")},
        PROBED,
    ),
    "What lies outside the masked image": Ablation(
        {x: {"encode.fill": x} for x in ("black", "mean", "blur")},
        [(PROBE, "masked"), (PROBE, "whole+masked")],
    ),
    "Text templates": Ablation(
        {"those of prompts.yaml": {}, "“{}.” alone": {TEMPLATES: {"default": ["{}."]}}},
        [("zero-shot", "whole"), (METHOD, "masked")],
    ),
    "Lambda of the loss": Ablation(
        {f"{x:g}": {f"learners.{METHOD}.lambda": x} for x in (0.0, 0.25, 0.5, 0.75, 1.0)},
        [(METHOD, "masked")],
        same_features=True,
    ),
    "Fusion F": Ablation(
        {x: {f"learners.{METHOD}.fusion": x} for x in FORMS},
        [(METHOD, "whole+crop")],
        same_features=True,
    ),
}
FILES = ("audit.parquet", "hashes.json", "thumbnails.npz")


def run_ablations(
    datasets: list[str],
    params: Params,
    paths: Paths,
    *,
    params_file: Path,
    encoders: Sequence[str] = (),
    jobs: int = -1,
) -> Path:
    """Run every ablation on some encoded datasets and return the path of the table.

    Args:
        params_file: params.yaml, from which the parameters of each variant are made.
        encoders: profiles of params.yaml to encode with beside the project's own.
        jobs: parallel fits, -1 for one per core.

    Raises:
        PipelineError: a dataset has not been segmented, encoded or audited.
    """
    profiles = {name: {"profile": name} for name in (params.profile, *encoders)}
    asked = ABLATIONS | {"Image encoder": Ablation(profiles, PROBED)}
    for title, ablation in asked.items():
        if len(ablation.variants) > 1:
            for variant, changes in ablation.variants.items():
                changed = variant_params(params, params_file, changes, ablation.runs)
                folder = paths.root / "ablations" / slug(title, variant)
                kept = {"masks.zarr"} if changed.segment == params.segment else set()
                kept |= {"features.zarr"} if ablation.same_features else set()
                for name in datasets:
                    place_variant(folder, name, paths, kept, changes.get(TEMPLATES))
                    found = variant_rows(folder, name, changed, paths, kept, jobs)
                    keep(paths.ablations, found.assign(ablation=title, variant=variant))
    return paths.ablations


def place_variant(
    folder: Path, dataset: str, paths: Paths, kept: set[str], templates: dict | None
) -> None:
    """Make the project folder of a variant: manifest, prompts, audit, and links to kept stores."""
    variant = Paths(folder)
    if is_url(paths.store_root):
        message = f"ablations link the stores of the project, which are at {paths.store_root}"
        raise ConfigError(message, remedy="copy them into cache/ and set store_root: cache")
    variant.cache(dataset).mkdir(parents=True, exist_ok=True)
    variant.manifest(dataset).parent.mkdir(exist_ok=True)
    shutil.copy2(paths.manifest(dataset), variant.manifest(dataset))
    prompts = yaml.safe_load(paths.prompts.read_text("utf-8"))
    prompts["templates"] = templates or prompts["templates"]
    atomic_write_text(variant.prompts, yaml.safe_dump(prompts, allow_unicode=True))
    for name in FILES:
        if (paths.cache(dataset) / name).is_file():
            shutil.copy2(paths.cache(dataset) / name, variant.cache(dataset) / name)
    for name in kept:  # only read: a link, not a copy
        link = variant.cache(dataset) / name
        if not link.is_symlink():
            link.symlink_to((paths.stores(dataset) / name).resolve())


def variant_rows(
    folder: Path, dataset: str, params: Params, project: Paths, kept: set[str], jobs: int
) -> pd.DataFrame:
    """Return a variant's rows of compare.parquet: means over the shares of grouped
    cross-validation, against the probe on whole images of the same variant."""
    paths = Paths(folder, str(project.data(dataset).parent.resolve()))
    if "masks.zarr" not in kept:
        segment_dataset(dataset, params, paths)
    if "features.zarr" not in kept:
        encode_dataset(dataset, params, paths)
    train_dataset(dataset, params, paths, list(params.learners), jobs=jobs)
    table = compare_dataset(dataset, params, paths)
    means = table["fraction"].isin([MEAN, 0.0]) & (table["protocol"] == "grouped")
    return table[means & (table["subset"] == "full") & (table["number"] > 0)]


def variant_params(
    params: Params, params_file: Path, changes: dict[str, Any], runs: list[tuple[str, str]]
) -> Params:
    """Return the project's parameters with a variant's changes, and its runs alone."""
    every = list(dict.fromkeys([(PROBE, "whole"), *runs]))
    learners = {
        name: {k: v for k, v in params.learners[name].items() if k not in ("fractions", "seeds")}
        | {"views": {"grouped": [view for learner, view in every if learner == name]}}
        for name in params.learners
        if name in dict(every)
    }
    named = [
        {"name": f"{LEARNERS[learner]}, {view}", "learner": learner, "view": view}
        for learner, view in every
    ]
    overrides: dict[str, Any] = {
        "learners": learners,
        "study": {"baseline": {"learner": PROBE, "view": "whole"}, "runs": named},
        "train.views": {"grouped": list(dict.fromkeys(view for _, view in every))},
        "encode.views": list(dict.fromkeys(p for _, view in every for p in parts_of(view))),
        "splits.shots": {},
    }
    changed = {key: value for key, value in changes.items() if key != TEMPLATES}
    return load_params(params_file, overrides | changed)


def keep(path: Path, rows: pd.DataFrame) -> None:
    """Put rows into the table, in the place of earlier ones of the same variant and dataset."""
    key = ["ablation", "variant", "dataset"]
    if path.is_file():
        old = pd.read_csv(path, dtype={"variant": str})
        again = old.set_index(key).index.isin(rows.set_index(key).index)
        rows = pd.concat([old[~again], rows], ignore_index=True)
    order = {title: i for i, title in enumerate([*ABLATIONS, "Image encoder"])}
    rows = rows.sort_values("ablation", key=lambda of: of.map(order), kind="stable")
    columns = [*key, *(name for name in rows if name not in key)]
    atomic_write_text(path, csv_text(rows[columns]))
