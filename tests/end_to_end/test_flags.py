"""The flags of the commands: precision, device, workers, choice of images, JSON and progress."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import open_features, open_masks
from tests.site import Site

SEGMENT = ("pipeline", "segment", "--dataset", "breast")
ENCODE = ("pipeline", "encode", "--dataset", "breast")
JUDGE = ("pipeline", "prompt-quality", "--dataset", "breast", "--json")
PREDICT = ("pipeline", "predict", "--dataset", "covid", "--json")
STORES = (("masks", open_masks, SEGMENT), ("features", open_features, ENCODE))


def result(out: str) -> dict:
    """Return the JSON at the end of what a command printed."""
    return json.loads(out[out.index("{\n") :])


def refuses(site: Site, *command: str, words: tuple[str, ...]) -> None:
    """Check that a command prints one error with these words and exits with 2."""
    out = site.run(*command, code=2)
    assert out.count("error: ") == 1 and out.startswith("error: "), out
    assert all(word in out for word in words), out


@pytest.mark.promise("A store in one precision is never continued in another.")
def test_bf16_works_on_the_cpu_and_never_continues_a_store_in_fp32(fresh: Site) -> None:
    half = fresh.copy(fresh.root.parent / "half")
    for site, precision in ((fresh, "auto"), (half, "bf16")):
        chosen = site.only(site.ids()[:4])
        for command in (SEGMENT, ENCODE):
            flags = ("--device", "cpu", "--precision", precision, "--json")
            assert result(site.run(*command, *chosen, *flags))["done"] == 4
    for name, opened, command in STORES:
        exact, rough = (opened(s.root / f"cache/breast/{name}.zarr") for s in (fresh, half))
        assert exact.identity["model"]["precision"] == "fp32"
        assert rough.identity["model"]["precision"] == "bf16"
        refuses(fresh, *command, *chosen, "--precision", "bf16", words=("model.precision", "fp32"))
        if name == "masks":
            pairs = [(exact[i], rough[i]) for i in exact]
            assert np.median([(a & b).sum() / (a | b).sum() for a, b in pairs]) > 0.8
        else:
            (a, _), (b, _) = exact.xy(view="whole"), rough.xy(view="whole")
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert not np.array_equal(a, b) and (cosine > 0.99).all()


@pytest.mark.promise(
    "Masks and features do not depend on batch size, cores, workers, order or resuming."
)
def test_masks_and_features_are_the_same_whatever_the_cores_workers_and_batch(fresh: Site) -> None:
    other = fresh.copy(fresh.root.parent / "other")
    for site, cores, workers, batch in ((fresh, 2, 1, 4), (other, 1, 3, 1)):
        flags = ("--workers", str(workers), "--batch-size", str(batch), "--limit", "6", "--json")
        for command in (SEGMENT, ENCODE):
            record = result(site.run(*command, *flags, OMP_NUM_THREADS=str(cores)))
            assert record["done"] == 6
            assert record["parameters"]["workers"] == workers
            assert record["parameters"]["batch_size"] == batch
    for name, opened, _ in STORES:
        one, three = (opened(s.root / f"cache/breast/{name}.zarr") for s in (fresh, other))
        assert one.identity == three.identity and list(one) == list(three)
        if name == "masks":
            assert all(np.array_equal(one[image_id], three[image_id]) for image_id in one)
            continue
        for view in one.views:
            a, b = (store.image_features(view, list(one)) for store in (one, three))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_device_that_is_not_there_is_refused_in_one_line(fresh: Site) -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for command in (SEGMENT, JUDGE):
        refuses(fresh, *command, "--device", absent, words=(absent, "--device auto or cpu"))
    assert not (fresh.root / "cache/breast/masks.zarr").exists()


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(fresh: Site) -> None:
    drawn = fresh.on_terminal(*SEGMENT, "--limit", "4", "--batch-size", "2")
    assert "\x1b[" in drawn and "━" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "segment breast" in plain and re.search(r"\b4/4\b", plain)
    assert re.search(r"\d\.\d images/s", plain)
    out = fresh.run(*SEGMENT, "--limit", "4", "--batch-size", "2")
    assert "\x1b" not in out and "━" not in out and "\r" not in out
    assert re.search(r"^segment breast: 4/4, \d+\.\d images/s", out, re.MULTILINE)


def test_prompt_quality_judges_the_images_and_in_the_precision_asked_for(site: Site) -> None:
    table = site.root / "cache/breast/prompt_quality.parquet"

    def judged() -> pd.DataFrame:
        return pd.read_parquet(table).set_index(["image_id", "strategy"])

    before = judged()
    ids = list(before.index.unique("image_id"))
    assert len(ids) == 4
    again = result(site.run(*JUDGE, *site.only(ids[:2]), "--force"))
    assert (again["done"], again["skipped"], again["total"]) == (2, 0, 2)
    pd.testing.assert_frame_equal(judged(), before)
    half = result(site.run(*JUDGE, "--precision", "bf16", "--limit", "3"))
    assert (half["done"], half["skipped"]) == (3, 0)
    after = judged().drop("box-ellipse", level=1)  # no model is asked for it
    assert list(after.index.unique("image_id")) == ids[:3]
    assert (after["key"] != before.loc[after.index, "key"]).all()
    refuses(site, *JUDGE, *site.only(["nobody.png"]), words=("nobody.png",))
    outside = [image_id for image_id in site.ids() if image_id not in ids]
    refuses(site, *JUDGE, *site.only(outside), words=("sample", "--images 0"))


def test_predictions_do_not_depend_on_batch_size_or_workers(site: Site) -> None:
    files = [f"data/covid/{row['path']}" for row in site.rows("covid")[:4]]
    (site.root / "bad.png").write_text("no image")
    files.insert(2, "bad.png")
    alone, together = (
        result(site.run(*PREDICT, "--batch-size", batch, "--workers", workers, *files, code=3))
        for batch, workers in (("1", "1"), ("4", "3"))
    )
    assert list(alone["failed"]) == list(together["failed"]) == ["bad.png"]
    assert [row["image"] for row in together["images"]] == [f for f in files if f != "bad.png"]
    for one, other in zip(alone["images"], together["images"], strict=True):
        assert one["overlay"] == other["overlay"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


@pytest.mark.promise(
    "Masks, features, fits, predictions and the leak audit belong to each other, also when the "
    "stages are run by hand: a stage refuses inputs that were made again since."
)
def test_each_stage_refuses_what_an_earlier_stage_has_made_again_since(site: Site) -> None:
    image = f"data/covid/{site.rows('covid')[0]['path']}"
    refuses(site, *PREDICT, "--precision", "bf16", image, words=("model.precision", "fp32"))
    site.params(encode__fill="mean", encode__tokens=True)
    site.run("pipeline", "encode", "-d", "covid", "--force")
    refuses(site, *PREDICT, image, words=("runs/medfocus", "fill"))
    refuses(site, "pipeline", "evaluate", "-d", "covid", words=("features", "pipeline train"))
    site.run("pipeline", "train", "-d", "covid", "--jobs", "1")
    site.run("pipeline", "evaluate", "-d", "covid", "--jobs", "1")
    assert result(site.run(*PREDICT, image))["images"]

    site.params(segment__prompt="full")
    site.run("pipeline", "segment", "-d", "covid", "--force")
    refuses(site, "pipeline", "train", "-d", "covid", words=("masks", "pipeline encode"))
    refuses(site, *PREDICT, image, words=("masks", "pipeline encode"))


def test_commands_that_write_files_name_them_and_as_json_for_scripts(site: Site) -> None:
    export = ["splits", "export", "-d", "covid", "--out", "splits.csv"]
    expected = (
        (["report"], ["index.html"]),
        (export, ["splits.csv"]),
        (["data", "preview", "-d", "covid", "--out", "sheet.png"], ["sheet.png"]),
        (["data", "sample", "-d", "lung", "--images", "16"], ["lung.csv"]),
    )
    for command, names in expected:
        found = result(site.run("pipeline", *command, "--json"))["written"]
        assert [Path(path).name for path in found] == names
        assert all((site.root / path).stat().st_size > 0 for path in found)
    assert site.run("pipeline", *export).splitlines()[-1] == "splits.csv"
