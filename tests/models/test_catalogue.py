"""Published models: what is known of their files, and whether they are there and whole."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from pipeline.config import ModelSpec, load_params
from pipeline.errors import ModelError
from pipeline.models.catalogue import ModelFile, catalogue
from pipeline.models.clip import clip_config
from pipeline.models.sam2 import sam2_config
from tests.project import REPO, in_process

CHECKED = "`pipeline models check` names a file that is half there or has another hash."


def test_the_catalogue_names_models_that_can_be_loaded_and_the_files_that_profiles_use():
    for model in catalogue().values():
        spec, places = ModelSpec(**model.use), [file.place for file in model.files]
        assert all(place.startswith("checkpoints/") for place in places)
        assert spec.checkpoint in (None, places[0])
        if not spec.name.startswith("local-dir:"):
            assert (sam2_config if model.kind == "sam2" else clip_config)(spec.name)
        for file in model.files:
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert file.revision is None or len(bytes.fromhex(file.revision)) == 20
    uses = [model.use for model in catalogue().values()]
    profiles = load_params(REPO / "params.yaml").profiles
    for name in ("paper", "medsam2"):
        assert profiles[name].sam2.model_dump(exclude_none=True) in uses
        assert profiles[name].clip.model_dump(exclude_none=True) in uses


@pytest.mark.promise(CHECKED)
@pytest.mark.promise("The hash of a file without a pinned one is recorded beside it and kept to.")
@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_is_missing_half_fetched_too_long_of_another_hash_or_right(tmp_path, pinned):
    body = b"weights" * 100
    known = (hashlib.sha256(body).hexdigest(), len(body)) if pinned else ()
    file = ModelFile("checkpoints/w.pt", "org/x", None, *known)
    path = tmp_path / file.place
    path.parent.mkdir()

    def error() -> str:
        with pytest.raises(ModelError) as caught:
            file.check(tmp_path, "fetch it")
        assert caught.value.path == path and caught.value.remedy.endswith("fetch it")
        return str(caught.value)

    assert file.state(tmp_path) == "missing" and "is missing" in error()
    path.write_bytes(body)
    found = "pinned" if pinned else "not pinned, recorded now"
    assert file.check(tmp_path, "") == f"ok, its hash is {found}"
    assert path.with_name("w.pt.sha256").exists() is not pinned
    assert file.check(tmp_path, "") == f"ok, its hash is {'pinned' if pinned else 'recorded'}"
    path.write_bytes(body[:-1] + b"!")
    assert f"is {'pinned' if pinned else 'recorded'} - delete it, then fetch it" in error()
    for size, state in {300: "half fetched", 701: "too long"}.items():
        path.write_bytes((body + b"!")[:size])
        assert file.state(tmp_path) == (state if pinned else "here")
        assert (f"{size} of 700 bytes - delete it" in error()) is pinned


@pytest.mark.promise(CHECKED)
def test_the_commands_list_and_check(tmp_path):
    shutil.copy2(REPO / "params.yaml", tmp_path)
    assert in_process(tmp_path, "models", "check") == (0, "no published model is here\n")
    half = tmp_path / "checkpoints/MedSAM2_latest.pt"
    half.parent.mkdir()
    half.write_bytes(b"half")
    code, said = in_process(tmp_path, "models", "check")
    assert code == 3 and "4 of 156,040,129 bytes" in said and "models fetch medsam2" in said
    code, said = in_process(tmp_path, "models", "list")
    assert code == 0 and len(said.splitlines()) == len(catalogue())
    assert "156 MB  half fetched  pinned" in said
    _, said = in_process(tmp_path, "models", "list", "biomedclip")
    assert "MIT" in said and "text: checkpoints/biomedbert" in said
    assert "9f341de24bfb00180f1b847274256e9b65a3a32e/open_clip_pytorch_model.bin" in said
    code, said = in_process(tmp_path, "models", "check", "sam3")
    assert code == 2 and "choose from sam2_hiera_tiny" in said
