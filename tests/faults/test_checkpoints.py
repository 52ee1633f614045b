"""A checkpoint that is not what it should be, through the real commands: it is named as what it
is with what to do, nothing of it runs, and the store stands."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.site import IMAGES, REPO, Site

WEIGHTS = REPO / "pipeline/models/weights"
ZEROS = "0" * 64


class Marker:
    """Unpickling it creates a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def cut(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])


def page(path: Path, good: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html><body>404: not found</body></html>")


def pointer(path: Path, good: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def foreign(path: Path, good: Path) -> None:
    """The weights of the other model."""
    (other,) = set(WEIGHTS.glob("*.safetensors")) - {good}
    path.write_bytes(other.read_bytes())


def code(path: Path, good: Path) -> None:
    torch.save({"model": Marker(path.with_suffix(".ran"))}, path)


def old_code(path: Path, good: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Marker(path.with_suffix(".ran"))}))


def nothing(path: Path, good: Path) -> None:
    """No file at all."""


def sound(path: Path, good: Path) -> None:
    if path.suffix == ".pt":
        torch.save({"model": load_file(good)}, path)
    else:
        path.write_bytes(good.read_bytes())


FAULTS: dict[str, tuple[Callable[[Path, Path], None], str, str]] = {
    "cut": (cut, ".safetensors", "truncated"),
    "page": (page, ".safetensors", "is a web page"),
    "pointer": (pointer, ".pt", "git lfs pull"),
    "foreign": (foreign, ".safetensors", "a checkpoint of another model"),
    "code": (code, ".pt", "have to run; refused"),
    "old code": (old_code, ".pt", "not a checkpoint"),
    "nothing": (nothing, ".pt", "no such checkpoint"),
    "another hash": (sound, ".safetensors", ZEROS),
}
STAGES = {"segment": ("sam2", "sam2-micro"), "encode": ("clip", "clip-micro")}
# Both read a checkpoint by the same code (tests/models judges it): `encode` is shown one fault.
CASES = [*(("segment", fault) for fault in FAULTS), ("encode", "foreign")]


@pytest.fixture(scope="module")
def faulty(drawn: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A project with one profile for each fault, and the files."""
    site = drawn.copy(tmp_path_factory.mktemp("checkpoints") / "site")
    package = {model: {"name": name, "checkpoint": "package"} for model, name in STAGES.values()}
    profiles = {"embedded": package}
    for number, (stage, fault) in enumerate(CASES):
        make, suffix, _ = FAULTS[fault]
        model, name = STAGES[stage]
        path = site.root / f"weights-{number}{suffix}"
        make(path, WEIGHTS / f"{name}.safetensors")
        given = {"name": name, "checkpoint": path.name}
        given |= {"sha256": ZEROS} if fault == "another hash" else {}
        profiles[f"p{number}"] = package | {model: given}
    site.params(profiles=profiles, segment__prompt="full")
    site.stage("segment")
    return site


@pytest.mark.promise("Each wrong checkpoint is named in one line by the commands and never runs.")
@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(case) for case in CASES])
def test_a_wrong_checkpoint_is_named_as_what_it_is_and_never_run(faulty: Site, number: int) -> None:
    stage, fault = CASES[number]
    suffix, words = FAULTS[fault][1:]
    options = ["--set", "segment.prompt=center-box", "--force"] if stage == "segment" else []
    before = faulty.outputs("segment")
    said = faulty.stage(stage, "--profile", f"p{number}", *options, code=2)
    assert f"weights-{number}{suffix}" in said and words in said
    assert " - " in said and len(said.strip().splitlines()) == 1, "no remedy in one line"
    assert not (faulty.root / f"weights-{number}.ran").exists()
    assert faulty.outputs("segment") == before


def test_the_same_file_sound_is_taken(half: Site, tmp_path: Path) -> None:
    site = half.copy(tmp_path / "site")
    sound(site.root / "mine.pt", WEIGHTS / "sam2-micro.safetensors")
    models = {"sam2": {"name": "sam2-micro", "checkpoint": "mine.pt"}}
    models["clip"] = {"name": "clip-micro", "checkpoint": "package"}
    site.params(profiles={"mine": models}, profile="mine")
    # Other bytes are another identity: the store is refused with the difference, not continued.
    assert "checkpoint_sha256" in site.stage("segment", code=2)
    site.stage("segment", "--force", "--set", "segment.prompt=center-box")
    assert site.record("segment")["done"] == IMAGES
