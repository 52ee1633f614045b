"""Phantoms are marked synthetic, readable, reproducible, and show the class where they should."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.images import read_image, read_mask
from pipeline.intake import add_dataset
from pipeline.manifest import mask_file, read_manifest, row_file
from pipeline.paths import Paths
from pipeline.phantoms import TASKS, make_known_answer, make_sample
from tests.data.conftest import picture


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("sample"))
    make_sample(paths, n=32, seed=3)
    return paths


@pytest.mark.parametrize("dataset", TASKS)
@pytest.mark.promise("Phantoms are marked as synthetic in their manifest.")
def test_phantoms_are_synthetic_and_balanced_and_a_patient_is_in_one_split(sample, dataset):
    frame = read_manifest(sample.manifest(dataset), data=sample.data(dataset))
    assert set(frame["synthetic"]) == {"1"} and frame["sha256"].is_unique
    counts = frame.groupby(["label", "split"]).size().unstack()
    assert list(counts.index) == sorted(TASKS[dataset][1])
    assert (counts.sum(axis=1) - 32 / len(counts)).abs().max() < 1 and counts["test"].min() >= 2
    patients = frame.groupby("patient_id")
    assert patients[["split", "label"]].nunique().max().max() == 1 and patients.size().max() == 2
    no_mask = {"brain": frame["mask_path"] == "", "breast": frame["mask_area"] == "0"}
    healthy = frame["label"].isin(["notumor", "normal"])
    assert (no_mask.get(dataset, healthy) == healthy).all()


@pytest.mark.promise("Phantoms of the same seed are the same bytes.")
def test_the_seed_decides_the_bytes(sample, tmp_path):
    again, other = Paths(tmp_path / "a"), Paths(tmp_path / "b")
    make_sample(again, ("brain",), n=32, seed=3)
    make_sample(other, ("brain",), n=16, seed=4)
    assert again.manifest("brain").read_bytes() == sample.manifest("brain").read_bytes()
    hashes = [set(read_manifest(p.manifest("brain"))["sha256"]) for p in (again, other)]
    assert not hashes[0] & hashes[1]


@pytest.mark.promise("Drawing phantoms never deletes or replaces real images.")
def test_phantoms_replace_phantoms_and_never_real_images(tmp_path):
    paths = Paths(tmp_path / "project")
    make_sample(paths, ("breast",), n=16)
    make_sample(paths, ("breast",), n=12, seed=1)
    assert len(read_manifest(paths.manifest("breast"))) == 12
    for label in ("a", "b"):
        picture(tmp_path / "real" / label / "x.png", seed=ord(label))
    with pytest.raises(ManifestError, match="holds phantoms"):
        add_dataset("breast", tmp_path / "real", paths=paths)
    add_dataset("breast", tmp_path / "real", paths=paths, force=True)
    for wrong, words in ((("breast", 12), "no phantoms"), (("heart", 32), "heart"),
                         (("brain", 3), "too few")):  # fmt: skip
        with pytest.raises(ManifestError, match=words):
            make_sample(paths, wrong[:1], n=wrong[1])
    assert (tmp_path / "real" / "a" / "x.png").exists()


@pytest.mark.parametrize("where", ["lesion", "background"])
def test_the_class_of_a_known_answer_is_visible_in_one_region_only(tmp_path, where):
    paths = Paths(tmp_path)
    frame = read_manifest(make_known_answer(paths, "known", where, n=48))
    stripes = {"lesion": [], "background": []}
    for row in frame.itertuples():
        image = read_image(row_file(row, paths.data("known")))[..., 0].astype(float)
        mask = read_mask(mask_file(row, paths.data("known")))
        # horizontal stripes: larger differences down than along
        down, along = np.abs(np.diff(image, axis=0))[:, :-1], np.abs(np.diff(image, axis=1))[:-1]
        for place, inside in (("lesion", mask[:-1, :-1]), ("background", ~mask[:-1, :-1])):
            stripes[place].append(np.log(down[inside].mean() / along[inside].mean()))
    striped = frame["label"] == "striped"
    effect = {place: np.corrcoef(striped, values)[0, 1] for place, values in stripes.items()}
    assert effect.pop(where) > 0.7 and abs(effect.popitem()[1]) < 0.45
