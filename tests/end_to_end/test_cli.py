"""The command line: help without torch, plain errors, exit codes that scripts understand."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.cli.app import app
from pipeline.images import read_image
from tests.images.makers import dicom as dicom_of
from tests.images.makers import save_dicom
from tests.project import in_process

from .conftest import Project

COMMANDS = [
    ["audit"],
    ["segment"],
    ["prompt-quality"],
    ["encode"],
    ["train"],
    ["evaluate"],
    ["report"],
    ["results"],
    ["predict"],
    ["status"],
    ["verify"],
    ["data", "add"],
    ["data", "refresh"],
    ["data", "sample"],
    ["data", "check"],
    ["data", "preview"],
    ["splits", "export"],
]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["segment", "-d", "x", "--set", "segment.colour=red"], 2),
        (["encode", "-d", "x", "--only", "no.csv"], 2),
        (["predict", "-d", "x", "x.png", "--precision", "fp8"], 2),
    ],
)
def test_help_and_mistyped_options_answer_without_importing_torch(
    repo: Path, arguments: list[str], code: int
) -> None:
    heavy = "print({'torch', 'zarr', 'sklearn'} & sys.modules.keys())"
    program = f"import sys; from pipeline.cli import main\ntry: main()\nfinally: {heavy}"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.strip().endswith("set()")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture
) -> None:
    app([*command, "--help"], standalone_mode=False)
    assert "Example: pipeline " + " ".join(command) in capsys.readouterr().out


def test_the_list_of_commands_above_is_complete() -> None:
    names = {c.name or c.callback.__name__ for c in app.registered_commands}
    assert names == {c[0] for c in COMMANDS if len(c) == 1}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["encode", "--dataset", "breast", "--set", "encode.geometry"], "KEY=VALUE"),
        (["encode", "--dataset", "breast", "--set", "encode.geometry=round"], "encode.geometry"),
        (["segment", "--dataset", "breast", "--set", "segment.prompt=[a"], "is not YAML"),
        (["segment", "--dataset", "breast", "--set", "datasets.x=1"], "set datasets as a whole"),
        (["segment", "--dataset", "breast", "--profile", "other"], "embedded, paper"),
        (["segment", "--dataset", "breast", "--params", "other.yaml"], "other.yaml"),
        (["segment", "--dataset", "breast", "--only", "no.csv"], "no.csv"),
        (["segment", "--dataset", "breast", "--only", "header.csv"], "no column image_id"),
        (["segment", "--dataset", "breast", "--device", "gpu7"], "gpu7"),
        (["segment", "--dataset", "breast", "--set", "segment.prompt=magic"], "magic"),
        (
            ["prompt-quality", "--dataset", "breast", "--set", "prompt_quality.strategies=[magic]"],
            "prompt_quality.strategies",
        ),
        (
            ["prompt-quality", "--dataset", "breast", "--set", "prompt_quality.box_jitter=2"],
            "prompt_quality.box_jitter",
        ),
        (["encode", "--dataset", "breast"], "pipeline segment --dataset breast"),
        (["train", "--dataset", "breast"], "pipeline encode --dataset breast"),
        (["evaluate", "--dataset", "breast"], "pipeline train --dataset breast"),
        (["predict", "--dataset", "breast", "x.png"], "pipeline train --dataset breast"),
        (["data", "add", "x", "--from", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_input_exits_2_and_names_the_cause(
    fresh: Project, arguments: list[str], expected: str
) -> None:
    (fresh.root / "header.csv").write_text("id,label\n")
    code, out = in_process(fresh.root, *arguments)
    assert code == 2, out
    assert expected in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["segment", "--dataset", "nowhere"], "nowhere.csv"),
        (["encode", "--dataset", "breast", "--set", "encode.colour=red"], "encode.colour"),
        (["train", "--dataset", "breast", "--jobs", "0"], "--jobs"),
    ],
)
def test_a_process_of_its_own_ends_in_the_same_way(
    sample_project: Project, arguments: list[str], expected: str
) -> None:
    out = sample_project.run("pipeline", *arguments, code=2)
    assert expected in out
    assert "Traceback" not in out


def test_the_paper_profile_says_what_to_download_and_where_to_put_it(fresh: Project) -> None:
    out = fresh.run("pipeline", "segment", "-d", "breast", "--profile", "paper", code=2)
    assert "checkpoints/sam2.1_hiera_large.pt" in out
    assert "sam2.1_hiera_large.pt" in out and "http" in out


def test_json_output_is_json(project: Project) -> None:
    out = project.run("pipeline", "segment", "--dataset", "breast", "--json")
    record = json.loads(out[out.index("{") :])
    assert record["done"] == 0 and record["failed"] == {}


def test_status_shows_all_datasets_at_a_glance(project: Project) -> None:
    out = project.run("pipeline", "status")
    assert "breast" in out and "covid" in out and "segment" in out


@pytest.mark.parametrize(("name", "array"), [("masks", "mask"), ("features", "image_features")])
def test_verify_passes_a_good_store_and_names_the_rows_of_a_lost_shard(
    project: Project, name: str, array: str
) -> None:
    store = project.root / f"cache/breast/{name}.zarr"
    assert "ok: 40 rows, 0 lost" in project.run("pipeline", "verify", str(store))
    for shard in (p for p in (store / array).rglob("*") if p.is_file() and p.name != "zarr.json"):
        shard.unlink()
    out = project.run("pipeline", "verify", str(store), code=3)
    assert "NOT OK: 40 rows, 40 lost" in out
    with open(project.root / "data_manifests/breast.csv", newline="", encoding="utf-8") as file:
        ids = [row["image_id"] for row in csv.DictReader(file)]
    assert len(ids) == 40
    assert all(f"lost: {image_id}" in out for image_id in ids)


@pytest.mark.parametrize(("head", "view"), [("medfocus", "masked"), ("linear-probe", "whole")])
def test_predict_gives_a_test_image_what_evaluate_judged_whatever_its_format(
    project: Project, tmp_path: Path, head: str, view: str
) -> None:
    stored = pd.read_parquet(project.root / "cache/covid/predictions.parquet")
    stored = stored[(stored["protocol"] == "official") & (stored["fraction"] == 1.0)]
    stored = stored[(stored["head"] == head) & (stored["view"] == view)]
    image_id = stored["image_id"].iloc[0]
    expected = stored[stored["image_id"] == image_id].filter(like="p:").mean()
    file = project.root / "data/covid" / image_id
    pixels = read_image(file)
    assert (pixels == pixels[..., :1]).all(), "a grey image"
    dicom = save_dicom(dicom_of(pixels[..., 0]), tmp_path / "same.dcm")

    command = ["pipeline", "predict", "--dataset", "covid", "--learner", head, "--view", view]
    out = project.run(*command, "--json", str(file), str(dicom))
    images = json.loads(out[out.index("{") :])["images"]
    assert [row["image"] for row in images] == [str(file), str(dicom)]
    for row in images:
        found = {f"p:{name}": share for name, share in row["probabilities"].items()}
        assert found == pytest.approx(expected.to_dict(), abs=1e-3)
        assert (project.root / row["overlay"]).read_bytes()[:4] == b"\x89PNG"


def test_predict_refuses_other_choices_than_those_the_heads_learned_from(project: Project) -> None:
    image = next(p for p in (project.root / "data/covid").resolve().rglob("*") if p.suffix)
    command = ["pipeline", "predict", "--dataset", "covid", str(image)]
    out = project.run(*command, "--set", "encode.fill=mean", code=2)
    assert "made with other choices" in out and "fill" in out
    out = project.run(*command, "--view", "oracle", code=2)
    assert "was not trained on view 'oracle'" in out and out.rstrip().endswith("masked, whole")
    out = project.run(*command, "--learner", "probe", code=2)
    assert "no saved head 'probe'" in out and "linear-probe, medfocus" in out


def test_predict_goes_on_after_an_unreadable_image_and_says_so(project: Project) -> None:
    bad = project.root / "bad.png"
    bad.write_text("no image")
    image = next(p for p in (project.root / "data/covid").resolve().rglob("*") if p.suffix)
    out = project.run("pipeline", "predict", "-d", "covid", str(bad), str(image), code=3)
    said = next(line for line in out.splitlines() if "failed" in line and "bad.png" in line)
    assert said.count("bad.png") == 1 and str(image.name) in out


def test_two_lines_of_python_open_a_feature_store(project: Project) -> None:
    code = (
        "from pipeline import open_features, open_masks\n"
        "fs = open_features('cache/breast/features.zarr')\n"
        "X, y = fs.xy(view='masked', split='train')\n"
        "assert X.dtype == 'float32' and X.ndim == 2 and len(X) == len(y) > 0\n"
        "assert set(fs.text_features.dims) == {'class', 'template', 'feature'}\n"
        "assert len(fs.to_pandas()) > 0 and fs.attrs\n"
        "masks = open_masks('cache/breast/masks.zarr')\n"
        "m = masks[fs.ids('train')[0]]\n"
        "assert m.dtype == bool and m.ndim == 2\n"
        "import warnings, xarray\n"
        "warnings.simplefilter('error')\n"
        "ds = xarray.open_zarr('cache/breast/features.zarr')\n"
        "assert {'image_id', 'label', 'split', 'view', 'class'} <= set(ds.coords)\n"
    )
    project.run("python", "-W", "error::UserWarning", "-c", code)
