"""Published models: what is known of their files, and whether they are there and whole."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest

from pipeline.config import ModelSpec, load_params
from pipeline.errors import ConfigError, ModelError
from pipeline.models import catalogue as module
from pipeline.models.catalogue import ModelFile, catalogue, human, published
from tests.project import REPO, in_process

CHECKED = "`pipeline models check` names a file that is half there or has another hash."


def test_the_catalogue_names_models_that_can_be_loaded_and_files_below_checkpoints():
    from pipeline.models.clip import clip_config
    from pipeline.models.sam2 import sam2_config

    for model in catalogue().values():
        spec = ModelSpec(**model.use)
        places = {file.place for file in model.files}
        assert all(place.startswith("checkpoints/") for place in places)
        if model.kind == "sam2":
            assert sam2_config(spec.name)["model"]["image_size"] in (1024, 512)
        elif not spec.name.startswith("local-dir:"):
            assert clip_config(spec.name)["quick_gelu"] is (spec.name != "medsiglip")
        assert not spec.checkpoint or spec.checkpoint in places
        for file in model.files:
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert file.revision is None or len(bytes.fromhex(file.revision)) == 20
    used = {tuple(m.use.values()) for m in catalogue().values()}
    for name, profile in load_params(REPO / "params.yaml").profiles.items():
        for spec in (profile.sam2, profile.clip) if name != "embedded" else ():
            assert tuple(spec.model_dump(exclude_none=True).values()) in used


@pytest.mark.promise(CHECKED)
def test_files_are_missing_half_fetched_too_long_of_another_hash_or_right(tmp_path):
    body = b"weights" * 100
    digest = hashlib.sha256(body).hexdigest()
    file = ModelFile("checkpoints/x/w.pt", "org/x", None, digest, len(body))
    path = tmp_path / file.place
    path.parent.mkdir(parents=True)

    def error() -> str:
        with pytest.raises(ModelError) as caught:
            file.check(tmp_path, "fetch it")
        assert caught.value.path == path and caught.value.remedy.endswith("fetch it")
        return str(caught.value)

    assert file.state(tmp_path) == "missing" and "is missing" in error()
    path.write_bytes(body[:300])
    assert file.state(tmp_path) == "half fetched" and "300 of 700 bytes - delete it" in error()
    path.write_bytes(body + b"!")
    assert file.state(tmp_path) == "too long" and "701" in error()
    path.write_bytes(body[:-1] + b"!")
    assert digest in error()
    path.write_bytes(body)
    assert file.check(tmp_path, "") == "ok, its hash is pinned"
    assert not path.with_name("w.pt.sha256").exists()


@pytest.mark.promise(
    "The first hash of a file without a pinned one is recorded beside it and kept to."
)
def test_a_hash_that_is_not_pinned_is_recorded_once(tmp_path):
    file = ModelFile("checkpoints/w.pt", "org/x", None)
    path = tmp_path / file.place
    path.parent.mkdir()
    path.write_bytes(b"first")
    assert file.wanted(tmp_path) == (None, "not pinned")
    assert file.check(tmp_path, "") == "ok, its hash is not pinned, recorded now"
    assert file.check(tmp_path, "") == "ok, its hash is recorded"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "w.pt.sha256"], cwd=path.parent, check=True)
    path.write_bytes(b"second")
    with pytest.raises(ModelError, match="is recorded - delete it, then again"):
        file.check(tmp_path, "again")


@pytest.mark.promise(CHECKED)
def test_the_commands_list_and_check(tmp_path, monkeypatch):
    shutil.copy2(REPO / "params.yaml", tmp_path)
    code, said = in_process(tmp_path, "models", "list")
    assert code == 0 and len(said.splitlines()) == len(catalogue())
    code, said = in_process(tmp_path, "models", "list", "biomedclip")
    assert "MIT" in said and "text: checkpoints/biomedbert" in said
    assert "9f341de24bfb00180f1b847274256e9b65a3a32e/open_clip_pytorch_model.bin" in said
    assert in_process(tmp_path, "models", "check") == (0, "no published model is here\n")
    half = tmp_path / "checkpoints/MedSAM2_latest.pt"
    half.parent.mkdir()
    half.write_bytes(b"half")
    code, said = in_process(tmp_path, "models", "check")
    assert code == 3 and "4 of 156,040,129 bytes" in said and "models fetch medsam2" in said
    assert (
        "medsam2                 156 MB  half fetched" in in_process(tmp_path, "models", "list")[1]
    )
    code, said = in_process(tmp_path, "models", "check", "sam3")
    assert code == 2 and "choose from sam2_hiera_tiny" in said
    with pytest.raises(ConfigError):
        published("")
    assert [human(n) for n in (None, 0, 999, 1500, 8.98e8)] == [
        "?",
        "0 B",
        "999 B",
        "1.5 kB",
        "898 MB",
    ]
    assert module.__doc__
