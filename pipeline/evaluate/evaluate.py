"""From predictions to metrics.parquet, metrics.json and plots/*.csv."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.paths import Paths


def evaluate_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1
) -> dict[str, Any]:
    """Evaluate the predictions of one dataset and judge its masks.

    Reads runs.parquet, predictions.parquet, audit.parquet (if any), the manifest and, for mask
    quality, masks.zarr and the ground-truth masks. Writes metrics.parquet, metrics.json,
    mask_quality.parquet and plots/{curve,confusion,reliability,per_class,comparisons}.csv.

    metrics.parquet is long, one row per (protocol, subset, head, view, fraction, seed, metric):
    `value`, `lo`, `hi` (95 % bootstrap; seed = -1: mean over seeds, nested bootstrap over seeds
    and images), `t_lo`, `t_hi` (t-interval over seeds; only seed = -1), `n_images`, `n_labels`
    (train + validation), `note`. Protocol `grouped-pooled` holds every image's prediction from
    the fold that tested it.

    Args:
        dataset: its name.
        params: section `evaluate` is read.
        paths: where everything lies.
        jobs: parallel processes for mask quality.

    Returns:
        The small nested summary that metrics.json holds.
    """
    raise NotImplementedError
