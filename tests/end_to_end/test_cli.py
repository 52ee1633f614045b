"""The command line: help without torch, plain errors, exit codes that scripts understand."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import typer
import xarray

from pipeline import open_features, open_masks
from pipeline.cli.app import app
from pipeline.images import read_image
from tests.images.makers import dicom as dicom_of
from tests.images.makers import save_dicom
from tests.project import in_process
from tests.site import Site


def commands(group: typer.Typer, *above: str) -> Iterator[str]:
    """Yield every command below a group, as it is typed."""
    for one in group.registered_commands:
        yield " ".join([*above, one.name or one.callback.__name__])
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, *above, inner.name)


COMMAND = "from pipeline.cli import main; main()"
HEAVY = "torch", "zarr", "sklearn", "fsspec"


@pytest.mark.parametrize(
    ("program", "arguments", "code", "heavy"),
    [
        (COMMAND, ["--help"], 0, HEAVY),
        (COMMAND, ["encode", "-d", "x", "--only", "no.csv"], 2, HEAVY),
        ("import pipeline.segment.segment", [], 0, ("open_clip",)),  # before a prompt asks it
    ],
    ids=["help", "mistyped", "segment"],
)
def test_help_mistyped_options_and_segment_import_no_large_library(
    repo: Path, program: str, arguments: list[str], code: int, heavy: tuple[str, ...]
) -> None:
    program = f"import sys\ntry: {program}\nfinally: print({set(heavy)} & sys.modules.keys())"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.strip().endswith("set()")


@pytest.mark.parametrize("command", [*commands(app)])
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture
) -> None:
    app([*command.split(), "--help"], standalone_mode=False)
    assert f"Example: pipeline {command}" in capsys.readouterr().out


BREAST = ("--dataset", "breast")
REFUSED = (
    (["encode", *BREAST, "--set", "encode.geometry"], "KEY=VALUE"),
    (["encode", *BREAST, "--set", "encode.geometry=round"], "encode.geometry"),
    (["segment", *BREAST, "--set", "segment.prompt=[a"], "is not YAML"),
    (["segment", *BREAST, "--set", "datasets.x=1"], "datasets is no table"),
    (["segment", *BREAST, "--profile", "other"], "embedded, medsam2, paper"),
    (["segment", *BREAST, "--profile", "paper"], "segment_anything_2/092824/sam2.1_hiera_large.pt"),
    (["segment", *BREAST, "--precision", "fp8"], "segment.precision"),
    (["segment", *BREAST, "--params", "other.yaml"], "other.yaml"),
    (["segment", *BREAST, "--only", "no.csv"], "no.csv"),
    (["segment", *BREAST, "--only", "header.csv"], "no column 'image_id'"),
    (["segment", *BREAST, "--device", "gpu7"], "gpu7"),
    (["segment", *BREAST, "--device", "mps"], "--device auto or cpu"),
    (["segment", *BREAST, "--set", "segment.prompt=magic"], "magic"),
    (["prompt-quality", *BREAST, "--images", "-1"], "--images"),
    (
        ["prompt-quality", *BREAST, "--set", "prompt_quality.strategies=[magic]"],
        "prompt_quality.strategies",
    ),
    (["encode", *BREAST], "pipeline segment --dataset breast"),
    (["train", *BREAST], "pipeline encode --dataset breast"),
    (["evaluate", *BREAST], "pipeline train --dataset breast"),
    (["predict", *BREAST, "x.png"], "pipeline train --dataset breast"),
    (["data", "add", "x", "--from", "no/such/folder"], "no/such/folder"),
)


def test_bad_input_exits_2_and_names_the_cause(fresh: Site) -> None:
    (fresh.root / "header.csv").write_text("id,label\n")
    for arguments, expected in REFUSED:
        code, out = in_process(fresh.root, *arguments)
        assert code == 2 and expected in out, (arguments, out)
    assert not (fresh.root / "cache/breast/masks.zarr").exists()


@pytest.mark.promise("`predict` gives an image what `evaluate` judged, whatever its file format.")
def test_predict_gives_a_test_image_what_evaluate_judged_whatever_its_format(
    site: Site, tmp_path: Path
) -> None:
    image_id = next(row["image_id"] for row in site.rows("covid") if row["split"] == "test")
    file = site.root / "data/covid" / image_id
    pixels = read_image(file)
    assert (pixels == pixels[..., :1]).all(), "a grey image"
    dicom = save_dicom(dicom_of(pixels[..., 0]), tmp_path / "same.dcm")
    (site.root / "bad.png").write_text("no image")
    files = [str(file), "bad.png", str(dicom)]

    command = ["pipeline", "predict", "--dataset", "covid", "--json"]
    out = site.run(*command, "--batch-size", "1", "--workers", "1", *files, code=3)
    found = json.loads(out[out.index("{\n") :])
    assert list(found["failed"]) == ["bad.png"]
    table = pd.read_parquet(site.root / f"cache/covid/runs/{found['learner']}/predictions.parquet")
    stored = table[(table["protocol"] == "official") & (table["fraction"] == 1)]
    stored = stored[(stored["view"] == found["view"]) & (stored["image_id"] == image_id)]
    expected = stored.filter(like="p:").mean()
    assert [row["image"] for row in found["images"]] == [str(file), str(dicom)]
    for row in found["images"]:
        shares = {f"p:{name}": share for name, share in row["probabilities"].items()}
        assert shares == pytest.approx(expected.to_dict(), abs=1e-3)
        assert (site.root / row["overlay"]).read_bytes()[:4] == b"\x89PNG"


def test_predict_refuses_what_was_not_learned(site: Site) -> None:
    image = site.root / "data/covid" / site.rows("covid")[0]["path"]
    for options, words in (
        (["--set", "encode.fill=mean"], ["fill"]),
        (["--precision", "bf16"], ["model.precision", "fp32"]),
        (["--view", "oracle"], ["view oracle", "linear-probe/masked"]),
        (["--learner", "probe"], ["probe"]),
    ):
        code, out = in_process(site.root, "predict", "-d", "covid", str(image), *options)
        assert code == 2 and all(word in out for word in words), out


def test_commands_that_write_files_name_them_and_as_json_for_scripts(site: Site) -> None:
    export = ["splits", "export", "-d", "covid", "--out", "splits.csv"]
    for command, names in (
        (["report"], ["index.html"]),
        (export, ["splits.csv"]),
        (["data", "preview", "-d", "covid", "--out", "sheet.png"], ["sheet.png"]),
        (["data", "sample", "-d", "lung", "--images", "16"], ["lung.csv"]),
    ):
        _, out = in_process(site.root, *command, "--json")
        found = json.loads(out[out.index("{\n") :])["written"]
        assert [Path(path).name for path in found] == names
        assert all((site.root / path).stat().st_size > 0 for path in found)
    assert in_process(site.root, *export)[1].splitlines()[-1] == "splits.csv"
    rows = json.loads(in_process(site.root, "status", "--json")[1])
    told = {(row["dataset"], row["stage"]): row["status"] for row in rows}
    assert {told["breast", "segment"], told["covid", "evaluate"]} == {"ok"}


def test_two_lines_of_python_open_a_feature_store(built: Site) -> None:
    fs = open_features(built.root / "cache/breast/features.zarr")
    X, y = fs.xy(view="masked", split="train")
    assert X.dtype == "float32" and X.ndim == 2 and len(X) == len(y) > 0
    assert set(fs.text_features.dims) == {"class", "template", "feature"}
    m = open_masks(built.root / "cache/breast/masks.zarr")[fs.ids("train")[0]]
    assert m.dtype == bool and m.ndim == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xarray.open_zarr(built.root / "cache/breast/features.zarr")
    assert {"image_id", "label", "split", "view", "class"} <= set(ds.coords)
