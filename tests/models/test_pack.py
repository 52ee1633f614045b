"""The models of a profile in one folder, for a machine without network."""

from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import constants

from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.models import load_clip
from pipeline.models.checkpoint import WEIGHTS
from pipeline.models.pack import pack, unpack
from tests.models.small import BIOMED, save_repository, save_text_model
from tests.project import REPO, in_process

PACKED = (
    "A packed profile is the same models elsewhere, without network and without the hub's cache."
)


def project(root, **profile):
    """A project whose profile "mine" is that."""
    root.mkdir(exist_ok=True)
    raw = yaml.safe_load((REPO / "params.yaml").read_text())
    raw["profiles"]["mine"] = raw["profiles"]["embedded"] | profile
    (root / "params.yaml").write_text(yaml.safe_dump(raw | {"profile": "mine"}))
    return load_params(root / "params.yaml")


@pytest.mark.promise(PACKED)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_packed_profile_is_the_same_models_in_another_project(tmp_path, monkeypatch, where):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    here, there, out = tmp_path / "here", tmp_path / "there", tmp_path / "packed"
    clip = {"name": "local-dir:checkpoints/biomed", "text": "checkpoints/text"}
    text, folder = here / "checkpoints/text", here / "checkpoints/biomed"
    if where == "hub":  # as a download leaves it
        clip = {"name": "hf-hub:org/biomed"}
        names = ("nobody--has-this-text-model", "org--biomed")
        text, folder = (tmp_path / f"hub/models--{name}/snapshots" / ("0" * 40) for name in names)
        for snapshot in (text, folder):
            (snapshot.parents[1] / "refs").mkdir(parents=True)
            (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    save_repository(folder, BIOMED, save_text_model(text), mean=[0.4, 0.5, 0.6])
    params = project(here, clip=clip)
    wanted = load_clip(params.models.clip).fingerprint
    pack(params, out)
    shutil.rmtree(here)
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    *lines, profile = unpack(out, there)
    assert lines and all(line.endswith(": unpacked") for line in lines)
    packed = yaml.safe_load(profile.split("\n", 1)[1])["profiles"]["mine"]
    assert packed["sam2"] == {"name": "sam2-micro", "checkpoint": "package"}
    found = load_clip(project(there, clip=packed["clip"]).models.clip).fingerprint
    assert found | {"name": wanted["name"]} == wanted
    assert where == "hub" or packed["clip"] == clip  # the same name is the same store
    assert all("there already" in line for line in [*unpack(out, there)][:-1])


@pytest.mark.promise("A packed folder that is damaged, or whose places are taken, changes nothing.")
def test_damage_is_found_before_anything_is_copied(tmp_path):
    sam2 = {"name": "sam2-micro", "checkpoint": "checkpoints/s.safetensors"}
    out, there = tmp_path / "packed", tmp_path / "there"
    project(tmp_path / "here", sam2=sam2)
    (tmp_path / "here/checkpoints").mkdir()
    shutil.copy(WEIGHTS / "sam2-micro.safetensors", tmp_path / "here/checkpoints/s.safetensors")
    for expected, said in {0: str(out), 2: "exists already"}.items():
        code, text = in_process(tmp_path / "here", "models", "pack", "--out", str(out))
        assert code == expected and said in text
    file, place, sums = out / sam2["checkpoint"], there / sam2["checkpoint"], out / "SHA256SUMS"
    place.parent.mkdir(parents=True)
    whole, listed = file.read_bytes(), sums.read_text()

    def refused(what: str) -> None:
        with pytest.raises(PipelineError, match=what) as caught:
            list(unpack(out, there))
        assert caught.value.remedy and not (place.exists() and place.read_bytes() != b"mine")

    file.write_bytes(whole[:-1])
    refused("was packed")
    file.write_bytes(whole)
    sums.write_text(listed.replace("checkpoints/", "checkpoints/../../"))
    refused("outside checkpoints")
    sums.write_text(listed)
    place.write_bytes(b"mine")
    refused("is another file")
    sums.unlink()
    refused("no packed model")
