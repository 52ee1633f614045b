"""The models of a profile in one folder, for a machine without network."""

from __future__ import annotations

import shutil

import pytest
import yaml
from huggingface_hub import constants

from pipeline.config import load_params
from pipeline.errors import PipelineError
from pipeline.io import sha256_file
from pipeline.models import load_clip, load_sam2
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
    if where == "folder":
        text = save_text_model(here / "checkpoints/text")
        save_repository(here / "checkpoints/biomed", BIOMED, text, mean=[0.4, 0.5, 0.6])
        clip = {"name": "local-dir:checkpoints/biomed", "text": "checkpoints/text"}
    else:
        text = save_text_model(tmp_path / "text")
        for name, source in {"org/biomed": None, "nobody/has-this-text-model": text}.items():
            stored = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
            (stored / "refs").mkdir(parents=True)
            (stored / "refs/main").write_text("0" * 40)
            if source is None:
                save_repository(stored / "snapshots" / ("0" * 40), BIOMED, text)
            else:
                shutil.copytree(source, stored / "snapshots" / ("0" * 40))
        clip = {"name": "hf-hub:org/biomed"}
    params = project(here, clip=clip)
    wanted = load_clip(params.models.clip).fingerprint
    pack(params, out)
    shutil.rmtree(here)
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    there.mkdir()
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
    weights = tmp_path / "here/checkpoints/s.pt"
    weights.parent.mkdir(parents=True)
    micro = load_sam2(load_params(REPO / "params.yaml").models.sam2).checkpoint
    shutil.copy(micro, weights.with_suffix(".safetensors"))
    sam2 = {"name": "sam2-micro", "checkpoint": "checkpoints/s.safetensors"}
    project(tmp_path / "here", sam2=sam2)
    out, there = tmp_path / "packed", tmp_path / "there"
    code, said = in_process(tmp_path / "here", "models", "pack", "--out", str(out))
    assert code == 0 and str(out) in said
    code, said = in_process(tmp_path / "here", "models", "pack", "--out", str(out))
    assert code == 2 and "exists already" in said
    file, place = out / "checkpoints/s.safetensors", there / "checkpoints/s.safetensors"
    assert sha256_file(file) == sha256_file(micro)

    def refused(what: str) -> None:
        with pytest.raises(PipelineError, match=what) as caught:
            list(unpack(out, there))
        assert caught.value.remedy

    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    refused("was packed")
    assert not place.exists()
    file.write_bytes(whole)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"mine")
    refused("is another file")
    assert place.read_bytes() == b"mine"
    sums = out / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("checkpoints/", "checkpoints/../../"))
    refused("outside checkpoints")
    sums.unlink()
    refused("no packed model")
