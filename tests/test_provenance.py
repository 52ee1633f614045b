"""An output states the digest of its inputs, and a difference is named."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.provenance import check, read_stamp, stamp, with_stamp


class Store:
    digest = "d1"


@pytest.mark.promise("An output states the digests of its inputs; a changed input is named.")
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_stamp_reads_back_and_a_changed_input_is_named(tmp_path: Path, suffix: str) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("image_id\n1\n")
    stamped = stamp(manifest=manifest, masks=Store(), params="p1", none=tmp_path / "no.csv")
    path = tmp_path / f"out{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps({"inputs": stamped}))
    else:
        pq.write_table(with_stamp(pa.Table.from_pandas(pd.DataFrame({"a": [1]})), stamped), path)
    check(read_stamp(path), "pipeline x", path, manifest=manifest, masks=Store(), params="p1")
    with pytest.raises(PipelineError):  # an output without a stamp
        check(None, "pipeline x", path, manifest=manifest)
    manifest.write_text("image_id\n2\n")
    with pytest.raises(PipelineError) as caught:
        check(read_stamp(path), "pipeline x", path, manifest=manifest, masks=Store(), params="p2")
    assert "manifest, params" in caught.value.message and "masks" not in caught.value.message
    assert caught.value.path == path and caught.value.remedy == "run: pipeline x"
