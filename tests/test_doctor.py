"""What `pipeline doctor` finds out before a long run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from pipeline.doctor import examine, probe_precision
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.io import partial_path
from tests.models.small import save_clip, small_clip_config
from tests.project import DATASET, REPO, Project, in_process, write_params
from tests.segment.small_sam2 import scene

DOCTOR = (
    "`pipeline doctor` tries ten images with the real stages, says what the whole set needs, and "
    "changes nothing."
)


def project_of(root, images: int) -> Project:
    """A project of phantoms with a small CLIP; masks are the whole image."""
    project = Project(root)
    for i in range(images):
        image, region = scene(i, 40 + i, 60)
        project.add(f"{i}.png", image, region, label=("cat", "dog")[i % 2])
    (root / "small.json").write_text(json.dumps(small_clip_config()))
    save_clip(root / "small.pt")
    clip = {"name": "small.json", "checkpoint": "small.pt"}
    models = {"profiles__embedded__clip": clip, "encode__views": ["whole", "masked"]}
    write_params(root, datasets=[DATASET], segment__prompt="full", **models)
    return project


def found(project: Project, *arguments: str) -> tuple[int, dict[str, dict]]:
    """The findings of the command, by what was looked at."""
    code, said = in_process(project.paths.root, "doctor", "--json", *arguments)
    return code, {one["check"]: one for one in json.loads(said[said.index("[") :])}


@pytest.mark.promise(DOCTOR)
def test_ten_images_are_tried_what_fails_is_named_and_nothing_is_left(tmp_path):
    project = project_of(tmp_path, 40)
    project.file("39.png").write_bytes(b"no image")
    dead = partial_path(project.paths.cache("doctor")).with_name(f".doctor.{2**22 + 1}.partial")
    dead.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    code, findings = found(project, "-d", DATASET)
    assert code == 3
    assert "1 of 10 images failed: '39.png'" in findings.pop("segment trial failures")["text"]
    assert findings.pop("encode trial failures")["status"] == "problem"
    assert {one["status"] for one in findings.values()} <= {"ok", "warning"}
    assert findings["segment trial"]["text"].startswith("9 images")
    assert findings["time"]["text"].startswith("40 images: about ")
    assert {"versions", "device", "cache", "disk", "memory", "strategy"} < findings.keys()
    assert "bf16" in findings["encode precision"]["text"]
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path != dead]


@pytest.mark.promise(DOCTOR)
def test_after_what_is_wrong_the_rest_is_looked_at_all_the_same(tmp_path):
    project = project_of(tmp_path, 1)
    (tmp_path / "cache").write_text("a file where the folder has to be")
    code, findings = found(project, "--profile", "paper", "--set", "segment.prompt=auto")
    assert code == 3 and {"versions", "device"} < findings.keys()
    assert findings["segment model"]["remedy"].endswith("models fetch sam2.1_hiera_large")
    assert findings["encode model"]["remedy"].endswith("models fetch openai-vit-b-16")
    assert "prompt-quality" in findings["strategy"]["remedy"]
    assert "cannot write" in findings["trial"]["text"]


@pytest.mark.promise(DOCTOR)
def test_without_a_dataset_the_models_are_measured(tmp_path):
    code, findings = found(project_of(tmp_path, 1))
    assert code == 0 and "with one image" in findings["memory"]["text"]
    assert "doctor --dataset NAME" in findings["trial"]["remedy"]


@pytest.mark.promise("`prompt-quality` ends with the line of the best strategy for params.yaml.")
def test_prompt_quality_ends_with_a_line_for_params_yaml(tmp_path):
    project_of(tmp_path, 2)
    given = "-d", DATASET, "--set", "prompt_quality.strategies=[center-box,box]"
    code, said = in_process(tmp_path, "prompt-quality", *given)
    figures, line = said.rstrip().splitlines()[-2:]
    assert code == 0 and figures.startswith("Dice without ground truth: center-box 0.")
    chosen = yaml.safe_load(line.removeprefix("best here, for params.yaml: "))["segment"]
    assert chosen["prompt"] == "center-box" and {"zoom", "box_as_mask"} < chosen.keys()
    raw = yaml.safe_load((REPO / "params.yaml").read_text())["segment"]
    assert all(raw[name] == value for name, value in chosen.items() if name != "prompt")


@pytest.mark.promise("For other weights than SAM2-micro, doctor names the strategy measured best.")
@pytest.mark.parametrize(
    ("profile", "remedy"), [("embedded", "prompt-quality"), ("paper", ": auto")]
)
def test_the_strategy_is_the_one_that_was_measured_best_on_this_profile(tmp_path, profile, remedy):
    project = project_of(tmp_path, 1)
    dice = {"auto": 0.8, "salient-refine": 0.75, "box": 1.0}
    table = pd.DataFrame({"strategy": list(dice), "dice": list(dice.values())})
    table["from_truth"] = table["strategy"] == "box"
    record = RunRecord("prompt_quality", DATASET, parameters={"profile": profile})
    record.write(project.paths.record(DATASET, "prompt_quality"))
    table.to_parquet(project.paths.prompt_quality(DATASET))
    params = project.params(profile="paper")
    said = {f.check: f for f in examine(params, project.paths, RunOptions(), DATASET)}
    assert remedy in said["strategy"].remedy
    assert "chosen for sam2-micro, not for sam2.1_hiera_large" in said["strategy"].text


def test_the_probe_measures_in_turns_and_leaves_the_model_as_it_was():
    model, order, refused = SimpleNamespace(precision="fp32"), [], []

    def forward() -> None:
        order.append(model.precision)
        if model.precision in refused:
            raise RuntimeError("not on this device")

    assert set(probe_precision(model, forward, rounds=2)) == {"fp32", "bf16"}
    refused.append("bf16")
    assert set(probe_precision(model, forward, rounds=2)) == {"fp32"}
    assert order == ["fp32", "bf16"] * 6 and model.precision == "fp32"
