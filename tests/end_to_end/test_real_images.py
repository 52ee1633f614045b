"""The whole chain on real images: brain MRI, filed by split, and breast ultrasound, filed by class
alone, with their ground-truth masks. Without the shared images these tests are skipped."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pipeline import open_features, open_masks

from .conftest import Project, empty_project

BRAIN = ("glioma", "meningioma", "notumor", "pituitary")
BREAST = ("benign", "malignant", "normal")
FOLDERS = {
    "brain": {f"{split}/{c}": n for c in BRAIN for split, n in (("train", 6), ("test", 2))},
    "breast": dict.fromkeys(BREAST, 8),
}
"""dataset -> folder of its images -> how many of them are taken."""

LIBRARIES = {"sam2": "sam2", "open_clip": "open_clip_torch"}

COMMANDS = (
    ("audit",),
    ("segment",),
    ("encode",),
    ("train", "--jobs", "1"),
    ("evaluate", "--jobs", "1"),
)


def take(shared: Path, dataset: str, root: Path) -> None:
    """Copy the first images of each class, with their masks, into two folders of one shape.

    Those that have a mask come first: some brain tumours and all of notumor lack one.
    """
    images, masks = shared / "data" / dataset, shared / "data" / f"{dataset}_masks"
    for folder, count in FOLDERS[dataset].items():
        files = sorted((images / folder).iterdir())
        files.sort(key=lambda file: not (masks / folder / f"{file.stem}.png").exists())
        for file in islice(files, count):
            for source, kind in ((file, "scans"), (masks / folder / f"{file.stem}.png", "truths")):
                if source.exists():
                    target = root / kind / dataset / folder / source.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, repo: Path, shared: Path) -> Project:
    """Eight images a class of both sets after every command from `data add` to `report`."""
    project = empty_project(tmp_path_factory.mktemp("real") / "project", repo)
    project.params(datasets=list(FOLDERS), splits__fractions=[1.0], train__seeds=[0])

    def build(dataset: str) -> None:
        take(shared, dataset, project.root)
        source, truths = f"scans/{dataset}", f"truths/{dataset}"
        project.run("pipeline", "data", "add", dataset, "--from", source, "--masks", truths)
        for name, *options in COMMANDS:
            project.run("pipeline", name, "--dataset", dataset, *options)

    with ThreadPoolExecutor(2) as pool:  # datasets are independent of each other
        list(pool.map(build, FOLDERS))
    project.run("pipeline", "report")
    return project


@pytest.mark.parametrize("dataset", FOLDERS)
def test_both_stores_hold_every_image_whole_with_its_label_and_part(
    real: Project, dataset: str
) -> None:
    count = sum(FOLDERS[dataset].values())
    stores = [str(real.root / f"cache/{dataset}/{name}.zarr") for name in ("masks", "features")]
    assert real.run("pipeline", "verify", *stores).count(f"ok: {count} rows, 0 lost") == 2
    features = open_features(stores[1]).table()
    for image_id, row in features.iterrows():
        *split, label = Path(image_id).parent.parts
        assert (row["label"], row["split"]) == (label, "".join(split))


@pytest.mark.parametrize("dataset", FOLDERS)
def test_masks_have_the_images_own_size_and_find_more_than_a_blind_guess(
    real: Project, dataset: str
) -> None:
    masks = open_masks(real.root / f"cache/{dataset}/masks.zarr")
    for image_id in masks:
        with Image.open(real.root / "scans" / dataset / image_id) as image:
            assert masks[image_id].shape == image.size[::-1]
    found = masks.table()
    ill = found[~found["label"].isin(["notumor", "normal"])]
    assert (ill["status"] == "ok").all(), ill[ill["status"] != "ok"]
    assert all(masks[image_id].any() for image_id in ill.index)
    quality = pd.read_parquet(real.root / f"cache/{dataset}/mask_quality.parquet")
    dice = quality.groupby("strategy")["dice"].mean()
    (strategy,) = set(dice.index) - {"ellipse", "random"}
    assert dice[strategy] > dice["ellipse"] > dice["random"]


@pytest.mark.parametrize("dataset", FOLDERS)
def test_the_attributes_name_models_checkpoints_versions_and_prompts(
    real: Project, dataset: str
) -> None:
    for name, library in (("masks", "sam2"), ("features", "open_clip")):
        opened = {"masks": open_masks, "features": open_features}[name]
        attrs = opened(real.root / f"cache/{dataset}/{name}.zarr").attrs
        model = attrs["identity"]["model"]["fingerprint"]
        assert re.fullmatch("[0-9a-f]{64}", model["checkpoint_sha256"])
        assert model[library] == metadata.version(LIBRARIES[library])
        assert attrs["identity"]["reader"]["version"] and attrs["identity"]["mapper_version"]
    assert set(attrs["prompts"]) == {Path(folder).name for folder in FOLDERS[dataset]}
    record = json.loads((real.root / f"cache/{dataset}/records/encode.json").read_text())
    assert {"python", "torch", "sam2", "open_clip_torch", "zarr"} <= set(record["versions"])


def test_the_report_shows_both_sets_and_calls_none_of_them_synthetic(real: Project) -> None:
    page = (real.root / "report/index.html").read_text(encoding="utf-8")
    assert all(f'id="set-{dataset}"' in page for dataset in FOLDERS)
    assert "synthetic" not in page.lower() and "drawn phantoms" not in page
    assert "quoted" in page.lower()  # the paper's figures stand beside those of real images only


@pytest.mark.parametrize("dataset", FOLDERS)
def test_predict_gives_a_test_image_what_evaluate_judged(real: Project, dataset: str) -> None:
    judged = pd.read_parquet(real.root / f"cache/{dataset}/predictions.parquet")
    judged = judged.query("protocol == 'official' and head == 'medfocus' and view == 'masked'")
    row = judged.iloc[0]
    image = real.root / "scans" / dataset / row["image_id"]
    out = real.run("pipeline", "predict", "--dataset", dataset, "--json", str(image))
    (found,) = json.loads(out[out.index("{") :])["images"]
    expected = {f"p:{name}": row[f"p:{name}"] for name in found["probabilities"]}
    assert {f"p:{k}": v for k, v in found["probabilities"].items()} == pytest.approx(
        expected, abs=1e-3
    )
    with Image.open(image) as shown, Image.open(real.root / found["overlay"]) as overlay:
        assert overlay.size == shown.size
