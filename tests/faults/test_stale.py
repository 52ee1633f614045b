"""An image replaced by another picture under its name: no stage uses what the old one gave, and
no record says "ok" of a run that failed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from .site import Site, picture


def test_what_an_older_image_gave_is_neither_trained_on_nor_judged(
    whole: Site, source: Path, tmp_path: Path
) -> None:
    site = whole.copy(tmp_path / "site")
    data = site.root / "data/toy"
    data.unlink()
    shutil.copytree(source, data)
    image_id = "train/cat/03.png"
    Image.fromarray(picture(77, bright=False)).save(data / image_id)
    site.run("data", "refresh", "toy").expect(0, "1 changed")
    (site.root / "cache/toy/audit.parquet").unlink()  # it would be the first to refuse
    trained = site.outputs("train")
    site.stage("train").expect(2, "are of older image bytes", image_id, "pipeline encode")
    assert site.outputs("train") == trained
    evaluated = site.outputs("evaluate")
    site.stage("evaluate").expect(2, "older image bytes", image_id, "pipeline segment")
    assert site.outputs("evaluate") == evaluated
    pairs = site.root / "cache/toy/audit_pairs.parquet"
    pairs.unlink()
    pairs.mkdir()  # in the way of the file
    site.stage("audit").expect(2, "cannot write", pairs.name)
    rows = json.loads(site.run("status", "--json").expect(0))
    told = {row["stage"]: row for row in rows}
    for stage, cause in (("train", image_id), ("evaluate", image_id), ("audit", pairs.name)):
        # The "ok" of the run before stands no longer.
        assert told[stage]["status"] == "error" and cause in told[stage]["error"]
