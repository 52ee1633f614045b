"""The command line: help without torch, plain errors, exit codes that scripts understand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.app import app
from pipeline.images import read_image
from tests.images.makers import dicom as dicom_of
from tests.images.makers import save_dicom
from tests.project import in_process
from tests.site import IMAGES, Site

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
    ["convert"],
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
        (["segment", "--dataset", "breast", "--only", "header.csv"], "no column 'image_id'"),
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
    fresh: Site, arguments: list[str], expected: str
) -> None:
    (fresh.root / "header.csv").write_text("id,label\n")
    code, out = in_process(fresh.root, *arguments)
    assert code == 2, out
    assert expected in out
    assert "Traceback" not in out


def test_a_process_of_its_own_ends_in_the_same_way(drawn: Site) -> None:
    process = drawn.start("pipeline", "segment", "--dataset", "nowhere")
    assert "nowhere.csv" in process.communicate(timeout=120)[0]
    assert process.returncode == 2


def test_the_paper_profile_says_what_to_download_and_where_to_put_it(drawn: Site) -> None:
    out = drawn.run("pipeline", "segment", "-d", "breast", "--profile", "paper", code=2)
    assert "checkpoints/sam2.1_hiera_large.pt" in out and "http" in out


def test_json_output_is_json_and_status_shows_all_datasets(site: Site) -> None:
    out = site.run("pipeline", "segment", "--dataset", "breast", "--json")
    record = json.loads(out[out.index("{") :])
    assert record["done"] == 0 and record["failed"] == {}
    rows = json.loads(site.run("pipeline", "status", "--json"))
    told = {(row["dataset"], row["stage"]): row["status"] for row in rows}
    assert {told["breast", "segment"], told["covid", "evaluate"]} == {"ok"}


@pytest.mark.promise("`pipeline verify` walks a store and names what is lost.")
@pytest.mark.parametrize(("name", "array"), [("masks", "mask"), ("features", "image_features")])
def test_verify_passes_a_good_store_and_names_the_rows_of_a_lost_shard(
    site: Site, name: str, array: str
) -> None:
    store = site.root / f"cache/breast/{name}.zarr"
    assert f"ok: {IMAGES} rows, 0 lost" in site.run("pipeline", "verify", str(store))
    for shard in (p for p in (store / array).rglob("*") if p.is_file() and p.name != "zarr.json"):
        shard.unlink()
    out = site.run("pipeline", "verify", str(store), code=3)
    assert all(image_id in out for image_id in site.ids()) and len(site.ids()) == IMAGES


@pytest.mark.promise("`predict` gives an image what `evaluate` judged, whatever its file format.")
@pytest.mark.parametrize(("learner", "view"), [("medfocus", "masked"), ("linear-probe", "whole")])
def test_predict_gives_a_test_image_what_evaluate_judged_whatever_its_format(
    site: Site, tmp_path: Path, learner: str, view: str
) -> None:
    stored = site.predictions("covid")
    stored = stored.query("protocol == 'official' and fraction == 1.0")
    stored = stored[(stored["learner"] == learner) & (stored["view"] == view)]
    image_id = stored["image_id"].iloc[0]
    expected = stored[stored["image_id"] == image_id].filter(like="p:").mean()
    file = site.root / "data/covid" / image_id
    pixels = read_image(file)
    assert (pixels == pixels[..., :1]).all(), "a grey image"
    dicom = save_dicom(dicom_of(pixels[..., 0]), tmp_path / "same.dcm")

    command = ["pipeline", "predict", "--dataset", "covid", "--learner", learner, "--view", view]
    out = site.run(*command, "--json", str(file), str(dicom))
    images = json.loads(out[out.index("{") :])["images"]
    assert [row["image"] for row in images] == [str(file), str(dicom)]
    for row in images:
        found = {f"p:{name}": share for name, share in row["probabilities"].items()}
        assert found == pytest.approx(expected.to_dict(), abs=1e-3)
        assert (site.root / row["overlay"]).read_bytes()[:4] == b"\x89PNG"


def test_predict_refuses_what_was_not_learned_and_goes_on_after_a_bad_image(site: Site) -> None:
    image = site.root / "data/covid" / site.rows("covid")[0]["path"]
    command = ["pipeline", "predict", "--dataset", "covid"]
    out = site.run(*command, str(image), "--set", "encode.fill=mean", code=2)
    assert "fill" in out
    out = site.run(*command, str(image), "--view", "oracle", code=2)
    assert "official/oracle" in out and "official/masked/1" in out
    out = site.run(*command, str(image), "--learner", "probe", code=2)
    assert "probe" in out and "Traceback" not in out
    (site.root / "bad.png").write_text("no image")
    out = site.run(*command, "bad.png", str(image), code=3)
    said = next(line for line in out.splitlines() if "failed" in line and "bad.png" in line)
    assert said.count("bad.png") == 1 and image.name in out


def test_two_lines_of_python_open_a_feature_store(site: Site) -> None:
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
    site.run("python", "-W", "error::UserWarning", "-c", code)
