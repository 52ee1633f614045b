"""Train every head on the stored features: few-shot fractions x seeds x views x protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.paths import Paths


def train_dataset(
    dataset: str, params: Params, paths: Paths, *, jobs: int = 1, force: bool = False
) -> dict[str, Any]:
    """Fit all heads of `params.train` and write cache/<dataset>/heads/, runs and predictions.

    Fits whose code, parameters and data are those of an earlier run are taken from its files.

    Args:
        dataset: its name.
        params: all parameters; sections `train` and `splits` are read.
        paths: where everything lies.
        jobs: parallel processes; the results are the same bits for any number.
        force: fit again even what is up to date.

    Returns:
        A summary: fitted, reused, failed (list of texts), seconds, warnings.

    Raises:
        PipelineError: features of images that the splits name are missing or failed; the
            message counts them by part and names the remedy.
    """
    raise NotImplementedError
