"""What the flags of the command line do: precision, device, workers, choice of images, JSON for
scripts, progress for people. The real commands on a few phantoms."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import open_features, open_masks

from .conftest import Project

SEGMENT = ("pipeline", "segment", "--dataset", "breast")
ENCODE = ("pipeline", "encode", "--dataset", "breast")
JUDGE = ("pipeline", "prompt-quality", "--dataset", "breast", "--json")
PREDICT = ("pipeline", "predict", "--dataset", "covid", "--json")

ELLIPSE = "box-ellipse"  # asks no model, so no precision changes it
OTHER_PRECISION = 'model.precision: "fp32" in the store, "bf16" now'


def result(out: str) -> dict:
    """The JSON at the end of what a command said."""
    return json.loads(out[out.index("{\n") :])


def refuses(project: Project, *command: str, words: tuple[str, ...]) -> None:
    """Check that a command says one error, with these words, and exits with 2."""
    out = project.run(*command, code=2)
    assert out.count("error: ") == 1 and out.startswith("error: "), out
    assert all(word in out for word in words), out


def first(project: Project, dataset: str, count: int) -> list[dict]:
    """The first rows of a manifest."""
    with open(project.root / f"data_manifests/{dataset}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))[:count]


def only(project: Project, image_ids: list[str]) -> list[str]:
    """The flag that names these images."""
    pd.DataFrame({"image_id": image_ids}).to_csv(project.root / "only.csv", index=False)
    return ["--only", "only.csv"]


def test_bf16_works_on_the_cpu_and_never_continues_a_store_in_fp32(fresh: Project) -> None:
    half = fresh.copy(fresh.root.parent / "half")
    for project, precision in ((fresh, "auto"), (half, "bf16")):
        chosen = only(project, [row["image_id"] for row in first(project, "breast", 4)])
        for command in (SEGMENT, ENCODE):
            flags = ("--device", "cpu", "--precision", precision, "--json")
            assert result(project.run(*command, *chosen, *flags))["done"] == 4
    for name, opened, command in (
        ("masks", open_masks, SEGMENT),
        ("features", open_features, ENCODE),
    ):
        exact, rough = (opened(p.root / f"cache/breast/{name}.zarr") for p in (fresh, half))
        assert exact.identity["model"]["precision"] == "fp32"
        assert rough.identity["model"]["precision"] == "bf16"
        assert exact.identity_hash != rough.identity_hash
        refuses(fresh, *command, *chosen, "--precision", "bf16", words=(OTHER_PRECISION,))
        if name == "masks":
            pairs = [(exact[i], rough[i]) for i in exact]
            assert all((a & b).sum() > 0.8 * (a | b).sum() for a, b in pairs)
        else:
            (a, _), (b, _) = exact.xy(view="whole"), rough.xy(view="whole")
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert not np.array_equal(a, b) and (cosine > 0.99).all()


def test_masks_and_features_are_the_same_whatever_the_cores_workers_and_batch(
    fresh: Project,
) -> None:
    other = fresh.copy(fresh.root.parent / "other")
    for project, cores, workers, batch in ((fresh, 2, 1, 4), (other, 1, 3, 1)):
        flags = ("--workers", str(workers), "--batch-size", str(batch), "--limit", "8", "--json")
        for command in (SEGMENT, ENCODE):
            record = result(project.run(*command, *flags, OMP_NUM_THREADS=str(cores)))
            used = {"cores": cores, "workers": workers, "batch_size": batch}
            assert record["done"] == 8 and used.items() <= record["parameters"].items()
    one, three = (open_masks(p.root / "cache/breast/masks.zarr") for p in (fresh, other))
    assert one.identity_hash == three.identity_hash and list(one) == list(three)
    assert all(np.array_equal(one[image_id], three[image_id]) for image_id in one)
    one, three = (open_features(p.root / "cache/breast/features.zarr") for p in (fresh, other))
    assert one.identity_hash == three.identity_hash and list(one) == list(three)
    for view in one.views:
        a, b = (store.image_features(view, list(one)) for store in (one, three))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_device_that_is_not_there_is_refused_in_one_line(fresh: Project) -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for command in (SEGMENT, JUDGE):
        refuses(fresh, *command, "--device", absent, words=(absent, "--device auto or cpu"))
    assert not (fresh.root / "cache/breast/masks.zarr").exists()


def test_a_terminal_gets_a_bar_with_images_a_second_and_the_time_left(fresh: Project) -> None:
    drawn = fresh.on_terminal(*SEGMENT, "--limit", "8", "--batch-size", "2")
    assert "\x1b[" in drawn and "━" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "segment breast" in plain and re.search(r"\b8/8\b", plain)
    assert re.search(r"\d\.\d images/s", plain)
    assert re.search(r"images/s +\d+:\d\d:\d\d", plain)
    assert "to do" not in plain


def test_elsewhere_progress_is_plain_lines(fresh: Project) -> None:
    out = fresh.run(*SEGMENT, "--limit", "8", "--batch-size", "2")
    assert "\x1b" not in out and "━" not in out and "\r" not in out
    assert "segment breast: 8 to do, 0 there already" in out.splitlines()
    assert re.search(r"^segment breast: 8/8, \d+\.\d images/s, \d+:\d\d left$", out, re.MULTILINE)


def test_prompt_quality_judges_the_images_and_in_the_precision_asked_for(project: Project) -> None:
    table = project.root / "cache/breast/prompt_quality.parquet"
    before = pd.read_parquet(table).set_index(["image_id", "strategy"])
    ids = list(before.index.unique("image_id"))
    assert len(ids) == 6
    again = result(project.run(*JUDGE, *only(project, ids[:2]), "--force"))
    assert (again["done"], again["skipped"], again["total"]) == (2, 0, 2)
    pd.testing.assert_frame_equal(
        pd.read_parquet(table).set_index(["image_id", "strategy"]), before
    )
    half = result(project.run(*JUDGE, "--precision", "bf16", "--limit", "4"))
    assert (half["done"], half["skipped"]) == (4, 0)
    after = pd.read_parquet(table).set_index(["image_id", "strategy"]).drop(ELLIPSE, level=1)
    assert list(after.index.unique("image_id")) == ids[:4]
    assert (after["key"] != before.loc[after.index, "key"]).all()
    rest = result(project.run(*JUDGE, "--precision", "bf16"))
    assert (rest["done"], rest["skipped"]) == (2, 4)


def test_prompt_quality_names_images_that_it_cannot_judge(project: Project) -> None:
    refuses(project, *JUDGE, *only(project, ["nobody.png"]), words=("nobody.png",))
    judged = pd.read_parquet(project.root / "cache/breast/prompt_quality.parquet")["image_id"]
    ids = [row["image_id"] for row in first(project, "breast", 40)]
    outside = [image_id for image_id in ids if image_id not in set(judged)]
    refuses(project, *JUDGE, *only(project, outside), words=("sample", "--images 0"))


def test_predictions_do_not_depend_on_batch_size_or_workers(project: Project) -> None:
    files = [f"data/covid/{row['path']}" for row in first(project, "covid", 5)]
    (project.root / "bad.png").write_text("no image")
    files.insert(2, "bad.png")
    alone, together = (
        result(project.run(*PREDICT, "--batch-size", batch, "--workers", workers, *files, code=3))
        for batch, workers in (("1", "1"), ("4", "3"))
    )
    assert list(alone["failed"]) == list(together["failed"]) == ["bad.png"]
    assert [row["image"] for row in together["images"]] == [f for f in files if f != "bad.png"]
    for one, other in zip(alone["images"], together["images"], strict=True):
        assert one["overlay"] == other["overlay"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_predict_refuses_models_and_precision_that_the_heads_did_not_learn_from(
    project: Project,
) -> None:
    image = f"data/covid/{first(project, 'covid', 1)[0]['path']}"
    refuses(project, *PREDICT, "--precision", "bf16", image, words=(OTHER_PRECISION,))
    words = ("checkpoints/sam2.1_hiera_large.pt", "http")
    refuses(project, *PREDICT, "--profile", "paper", image, words=words)


def test_each_stage_refuses_what_an_earlier_stage_has_made_again_since(project: Project) -> None:
    image = f"data/covid/{first(project, 'covid', 1)[0]['path']}"
    project.params(encode__fill="mean", encode__tokens=True)
    project.run("pipeline", "encode", "-d", "covid", "--force")
    refuses(project, *PREDICT, image, words=("heads", "fill", '"black" in the store, "mean" now'))
    words = ("other features", "pipeline train")
    refuses(project, "pipeline", "evaluate", "-d", "covid", words=words)
    project.run("pipeline", "train", "-d", "covid")
    project.run("pipeline", "evaluate", "-d", "covid")
    assert result(project.run(*PREDICT, image))["images"]

    project.params(segment__prompt="full")
    project.run("pipeline", "segment", "-d", "covid", "--force")
    refuses(project, "pipeline", "train", "-d", "covid", words=("other masks", "pipeline encode"))
    refuses(project, *PREDICT, image, words=("other masks", "pipeline encode"))


def test_commands_that_write_files_name_them_and_as_json_for_scripts(project: Project) -> None:
    export = ["splits", "export", "-d", "covid", "--out", "splits.csv"]
    *notes, name = project.run("pipeline", *export).splitlines()
    assert name == "splits.csv"
    assert notes == [
        f"note: {note}" for note in result(project.run("pipeline", *export, "--json"))["notes"]
    ]
    expected = (
        (["report"], ["index.html"]),
        (
            ["results", "-d", "covid"],
            ["covid.md", "covid.csv.gz", "covid_comparisons.csv.gz", "README.md"],
        ),
        (export, ["splits.csv"]),
        (["data", "preview", "-d", "covid", "--out", "sheet.png"], ["sheet.png"]),
        (
            ["data", "sample", "-d", "lung", "-d", "brain", "--images", "16"],
            ["lung.csv", "brain.csv"],
        ),
        (["data", "sample", "--known-answer", "lesion", "--images", "16"], ["known-lesion.csv"]),
    )
    for command, names in expected:
        found = result(project.run("pipeline", *command, "--json"))["written"]
        assert [Path(path).name for path in found] == names
        assert all((project.root / path).stat().st_size > 0 for path in found)
