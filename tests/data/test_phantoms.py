"""Phantoms are marked synthetic, readable, reproducible, and show the class where they should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from skimage.measure import regionprops

from pipeline.errors import ManifestError
from pipeline.images import read_image, read_mask
from pipeline.intake import add_dataset
from pipeline.manifest import mask_file, read_manifest, row_file
from pipeline.paths import Paths
from pipeline.phantoms import make_known_answer, make_sample
from pipeline.phantoms.make import TASKS
from tests.data.conftest import picture


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("sample"))
    make_sample(paths, n=32, seed=3)
    return paths


@pytest.mark.parametrize("dataset", TASKS)
@pytest.mark.promise("Phantoms are marked as synthetic in their manifest.")
def test_every_phantom_opens_at_its_size_and_is_marked_synthetic(sample, dataset):
    data = sample.data(dataset)
    frame = read_manifest(sample.manifest(dataset), data=data)
    assert len(frame) == 32
    assert set(frame["synthetic"]) == {"1"}
    assert frame["sha256"].is_unique
    assert len(set(zip(frame["width"], frame["height"], strict=True))) > 5
    for row in frame.itertuples():
        image = read_image(row_file(row, data))
        assert image.shape == (row.height, row.width, 3)
        assert image.std() > 10
        if row.mask_path:
            assert read_mask(mask_file(row, data), shape=image.shape[:2]).sum() == int(
                row.mask_area
            )


@pytest.mark.parametrize("dataset", TASKS)
def test_classes_are_even_and_a_patient_is_in_one_split_of_one_class(sample, dataset):
    frame = read_manifest(sample.manifest(dataset))
    counts = frame.groupby(["label", "split"]).size().unstack()
    assert set(frame["label"]) == set(TASKS[dataset][1])
    assert (counts.sum(axis=1) - 32 / len(counts)).abs().max() < 1
    assert counts["test"].min() >= 2
    per_patient = frame.groupby("patient_id")
    assert per_patient["split"].nunique().max() == 1
    assert per_patient["label"].nunique().max() == 1
    assert per_patient.size().max() == 2


def test_normal_breasts_have_an_empty_mask_and_lesions_do_not(sample):
    frame = read_manifest(sample.manifest("breast"))
    empty = frame["mask_area"] == "0"
    assert (empty == (frame["label"] == "normal")).all()
    brain = read_manifest(sample.manifest("brain"))
    assert ((brain["mask_path"] == "") == (brain["label"] == "notumor")).all()


@pytest.mark.promise("Phantoms of the same seed are the same bytes.")
def test_the_seed_decides_the_bytes(sample, tmp_path):
    again, other = Paths(tmp_path / "a"), Paths(tmp_path / "b")
    make_sample(again, ("brain",), n=32, seed=3)
    make_sample(other, ("brain",), n=32, seed=4)
    assert again.manifest("brain").read_bytes() == sample.manifest("brain").read_bytes()
    hashes = [set(read_manifest(p.manifest("brain"))["sha256"]) for p in (again, other)]
    assert not hashes[0] & hashes[1]


def lesion_shapes(paths, dataset):
    frame = read_manifest(paths.manifest(dataset))
    rows = []
    for row in frame[~frame["mask_area"].isin(["", "0"])].itertuples():
        mask = read_mask(mask_file(row, paths.data(dataset)))
        region = regionprops(mask.astype(np.uint8))[0]
        top, left, bottom, right = region.bbox
        rows.append(
            {
                "label": row.label,
                "solidity": region.solidity,
                "tall": (bottom - top) / (right - left),
                "low": region.centroid[0] / row.height,
                "off": abs(region.centroid[1] / row.width - 0.5),
            }
        )
    return pd.DataFrame(rows).groupby("label").mean()


def test_lesions_differ_between_classes_as_the_drawings_say(sample):
    breast = lesion_shapes(sample, "breast")
    assert breast.loc["benign", "solidity"] > breast.loc["malignant", "solidity"] + 0.05
    assert breast.loc["malignant", "tall"] > breast.loc["benign", "tall"]
    brain = lesion_shapes(sample, "brain")
    assert brain.loc["pituitary", "off"] < brain.loc["meningioma", "off"]
    assert brain.loc["glioma", "solidity"] < brain.loc["meningioma", "solidity"]


def test_every_class_of_the_sample_has_its_prompt(repo):
    prompts = yaml.safe_load((repo / "data_manifests" / "prompts.yaml").read_text())
    for dataset, (_, classes) in TASKS.items():
        assert sorted(prompts["classes"][dataset]) == sorted(classes)
        assert len(set(prompts["classes"][dataset].values())) == len(classes)
        assert all("{}" in template for template in prompts["templates"][dataset])


@pytest.mark.promise("Drawing phantoms never deletes or replaces real images.")
def test_phantoms_replace_phantoms_and_never_real_images(sample, tmp_path):
    paths = Paths(tmp_path / "project")
    make_sample(paths, ("breast",), n=16)
    make_sample(paths, ("breast",), n=12, seed=1)
    assert len(read_manifest(paths.manifest("breast"))) == 12
    for label in ("a", "b"):
        picture(tmp_path / "real" / label / "x.png", seed=ord(label))
    with pytest.raises(ManifestError, match="holds phantoms"):
        add_dataset("breast", tmp_path / "real", paths=paths)
    add_dataset("breast", tmp_path / "real", paths=paths, force=True)
    with pytest.raises(ManifestError, match="no phantoms"):
        make_sample(paths, ("breast",), n=12)
    assert (tmp_path / "real" / "a" / "x.png").exists()


@pytest.mark.parametrize(("names", "n"), [(("heart",), 32), (("brain",), 3)])
def test_unknown_tasks_and_too_few_images_are_refused(tmp_path, names, n):
    with pytest.raises(ManifestError, match=r"heart|too few"):
        make_sample(Paths(tmp_path), names, n=n)


@pytest.mark.parametrize("where", ["lesion", "background"])
def test_the_class_of_a_known_answer_is_visible_in_one_region_only(tmp_path, where):
    paths = Paths(tmp_path)
    make_known_answer(paths, "known", where, n=48, size=64)
    frame = read_manifest(paths.manifest("known"))
    stripes = {"lesion": [], "background": []}
    for row in frame.itertuples():
        image = read_image(row_file(row, paths.data("known")))[..., 0].astype(float)
        mask = read_mask(mask_file(row, paths.data("known")))
        # horizontal stripes: larger differences down than along
        down, along = np.abs(np.diff(image, axis=0))[:, :-1], np.abs(np.diff(image, axis=1))[:-1]
        for place, inside in (("lesion", mask), ("background", ~mask)):
            stripes[place].append(
                np.log(down[inside[:-1, :-1]].mean() / along[inside[:-1, :-1]].mean())
            )
    striped = (frame["label"] == "striped").to_numpy()
    effect = {
        place: np.corrcoef(striped, np.array(values))[0, 1] for place, values in stripes.items()
    }
    nowhere = {"lesion": "background", "background": "lesion"}[where]
    assert effect[where] > 0.7
    assert abs(effect[nowhere]) < 0.45
