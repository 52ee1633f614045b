"""`evaluate` where a class is missing from the test part, and where images share a patient."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluate import evaluate_dataset
from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.subsets import image_groups
from pipeline.paths import Paths
from pipeline.report.build import build_report
from pipeline.report.results import write_results
from pipeline.train import train_dataset
from tests.heads.projects import make_manifest, small_params
from tests.heads.test_train import CLASSES, make_project

PARAMS = small_params(
    train__heads=["linear-probe", "medfocus"],
    train__views={"official": ["masked"]},
    train__seeds=[0, 1],
    splits__fractions=[1.0],
    datasets=["toy"],
)


def metrics(paths: Paths) -> pd.DataFrame:
    """The rows over all seeds, of the whole test part."""
    train_dataset("toy", PARAMS, paths)
    evaluate_dataset("toy", PARAMS, paths)
    table = pd.read_parquet(paths.metrics_table("toy"))
    return table[(table["seed"] == -1) & (table["protocol"] == "official")]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory) -> tuple[Paths, pd.DataFrame]:
    """A test part of ten cysts, one "none" and no tumour."""
    labels = [CLASSES[i % 3] for i in range(60)] + ["cyst"] * 10 + ["none"]
    manifest = make_manifest(labels, ["train"] * 60 + ["test"] * 11)
    paths = make_project(tmp_path_factory.mktemp("lacking"), manifest=manifest)
    return paths, metrics(paths)


def test_every_figure_is_finite_where_a_class_is_absent_or_has_one_image(lacking):
    table = lacking[1]
    assert set(table["metric"]) == set(METRICS)
    assert np.isfinite(table[["value", "lo", "hi"]].to_numpy(float)).all()
    assert (table["lo"] <= table["hi"]).all()


def test_the_classes_left_out_are_noted_beside_each_figure_and_in_the_report(lacking):
    paths, table = lacking
    notes = ("left out of means over classes, no test image: tumour", "one test image only: none")
    for note in notes:
        assert table["note"].str.contains(note, regex=False).all()
    html = build_report(PARAMS, paths).read_text(encoding="utf-8")
    (page,) = (p for p in write_results(PARAMS, paths) if p.name == "toy.md")
    for text in (html, page.read_text(encoding="utf-8")):
        assert f"Notes: {notes[0]}; {notes[1]}." in text


@pytest.fixture(scope="module")
def patients() -> tuple[pd.DataFrame, list[str]]:
    """Twelve test patients of six images; the images of every third look like another class."""
    looks, labels, splits, names = [], [], [], []
    for k in range(36):
        test, look = k % 3 == 0, CLASSES[k % 4 % 3]
        odd = test and k % 9 == 0
        label = CLASSES[(CLASSES.index(look) + odd) % 3]
        looks += [look] * 6
        labels += [label] * 6
        splits += ["test" if test else "train"] * 6
        names += [f"p{k:02d}"] * 6
    manifest = make_manifest(looks, splits)
    manifest["label"] = labels
    return manifest, names


def test_images_of_a_patient_are_resampled_together(patients, tmp_path):
    manifest, names = patients
    alone = metrics(make_project(tmp_path / "alone", manifest=manifest))
    together = metrics(
        make_project(tmp_path / "together", manifest=manifest.assign(patient_id=names))
    )
    width = {}
    for kind, table in (("alone", alone), ("together", together)):
        row = table[(table["metric"] == "accuracy") & (table["head"] == "linear-probe")].iloc[0]
        assert row["n_images"] == 72
        assert row["n_groups"] == {"alone": 72, "together": 12}[kind]
        width[kind] = row["hi"] - row["lo"]
    assert width["together"] > 1.5 * width["alone"]


def test_patient_comes_before_group_and_group_before_the_frames_of_one_file():
    manifest = make_manifest(["cyst"] * 6, ["test"] * 6, patients=["p", "p", "", "", "", ""])
    manifest["group"] = ["g", "h", "g", "", "", ""]
    manifest["path"] = ["v.nii", "v.nii", "v.nii", "w.nii", "w.nii", "x.png"]
    units = list(image_groups(manifest).values())
    assert units[:3] == ["patient p", "patient p", "group g"]
    assert units[3:] == ["file w.nii", "file w.nii", f"image {manifest['image_id'][5]}"]
