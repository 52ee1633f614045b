"""Stage 2, I = E_v(x * m) and T = E_t(t), for a whole dataset: cache/<dataset>/features.zarr."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.config import Params
from pipeline.paths import Paths


def encode_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
    force: bool = False,
    on_mismatch: str = "refuse",
):
    """Encode the images that the store lacks; see pipeline.engine.run_stage for the record."""
    raise NotImplementedError
