"""The commands name a wrong checkpoint and the store stands; tests/models judges each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import in_process
from tests.site import REPO, Site

WEIGHTS = REPO / "pipeline/models/weights"
SAM2, CLIP = (WEIGHTS / f"{name}-micro.safetensors" for name in ("sam2", "clip"))
PACKAGE = {m: {"name": f"{m}-micro", "checkpoint": "package"} for m in ("sam2", "clip")}


@pytest.mark.promise("Each wrong checkpoint is named in one line by the commands and never runs.")
@pytest.mark.parametrize(("stage", "model"), [("segment", "sam2"), ("encode", "clip")])
def test_a_wrong_checkpoint_is_named_and_the_store_stands(
    half: Site, tmp_path: Path, stage: str, model: str
) -> None:
    site = half.copy(tmp_path / "site")
    good, other = (SAM2, CLIP) if model == "sam2" else (CLIP, SAM2)
    before = site.outputs(stage)
    for words, data, more in (
        ("a checkpoint of another model", other.read_bytes(), {}),
        ("is damaged", good.read_bytes()[:9000], {}),
        ("0" * 64, good.read_bytes(), {"sha256": "0" * 64}),
    ):
        (site.root / "mine.safetensors").write_bytes(data)
        given = {"name": f"{model}-micro", "checkpoint": "mine.safetensors"} | more
        site.params(profiles={"embedded": PACKAGE, "mine": PACKAGE | {model: given}})
        command = (stage, "--dataset", "breast", "--profile", "mine", "--force")
        code, said = in_process(site.root, *command)
        assert code == 2 and "mine.safetensors" in said and words in said
        assert " - " in said and len(said.strip().splitlines()) == 1, "no remedy in one line"
        assert site.outputs(stage) == before
