"""From images to metrics: what must not matter changes nothing, and no signal is chance."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import open_features
from pipeline.config import DEFAULT_LEARNERS
from pipeline.encode.encode import encode_dataset
from pipeline.engine.options import RunOptions
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from pipeline.segment.segment import segment_dataset
from tests.encode.conftest import small_clip
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, make_project
from tests.project import DATASET, Project

RUN = ["protocol", "learner", "view", "fraction", "seed"]
TEMPLATES = ("a photo of {}.", "a scan of {}.", "{}")


def draw(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Image i and its mask; its class is roughly the brightness of the region."""
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (28 + i % 5, 40 - i % 7, 3))
    mask = np.zeros(image.shape[:2], bool)
    mask[5:18, 6 : 16 + i % 9] = True
    image[mask] = image[mask] // 4 + (50 + 40 * (i % 2) + rng.integers(-25, 26))
    return image.clip(0, 255).astype(np.uint8), mask


def study(folder: Path, *, change=None) -> Paths:
    """Make 40 images, let `change(project)` alter the project, and run all stages on it."""
    project = Project(folder)
    project.prompts(*TEMPLATES)
    for i in range(40):
        columns = {"label": "cat" if i % 2 else "dog", "split": "test" if i % 5 < 2 else "train"}
        project.rows.append(project.make_row(f"{i}.png", *draw(i), **columns))
    project.write()
    if change:
        change(project)
    params = small_params(
        segment__prompt="manifest", encode__views=["whole", "masked"], splits__folds=2
    )
    segment_dataset(DATASET, params, project.paths, RunOptions(workers=1))
    encode_dataset(DATASET, params, project.paths, RunOptions(workers=1), clip=small_clip())
    train_dataset(DATASET, params, project.paths)
    evaluate_dataset(DATASET, params, project.paths)
    return project.paths


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Paths:
    return study(tmp_path_factory.mktemp("plain"))


def accuracy(paths: Paths) -> pd.Series:
    table = read_tables(paths)[1]
    hit = table["y_true"].astype(str) == table["y_pred"].astype(str)
    return hit.groupby([table[c] for c in RUN], observed=True).mean()


def cat_probability(paths: Paths) -> pd.Series:
    """The probability of "cat", or of its new name, of every image in every run."""
    table = read_tables(paths)[1].astype({"image_id": str})
    column = "p:cat" if "p:cat" in table else "p:z"
    return table.groupby([*RUN, "image_id"], observed=True)[column].first().rename("cat")


def rename_and_reorder(project: Project) -> None:
    """Give the classes names, and the images folders, in the reverse alphabetical order; reverse
    the rows of the manifest, the classes of prompts.yaml and its templates."""
    for row in project.rows:
        row["label"] = {"cat": "z", "dog": "a"}[row["label"]]
        path = f"{row['label']}/{row['path']}"
        shutil.move(project.file(row["path"]), project.file(path))
        row["path"] = path
    project.rows.reverse()
    project.write()
    project.prompts(*TEMPLATES[::-1])
    text = project.paths.prompts.read_text()
    assert "cat: a cat, dog: a dog" in text
    project.paths.prompts.write_text(text.replace("cat: a cat, dog: a dog", "a: a dog, z: a cat"))


@pytest.mark.promise("The order of rows, prompts, classes and folders changes no accuracy.")
def test_the_order_of_rows_prompts_classes_and_folders_changes_no_accuracy(plain, tmp_path):
    expected = accuracy(plain)
    assert expected.between(0.2, 0.95).mean() > 0.5  # neither chance nor perfect: order could show
    changed = study(tmp_path, change=rename_and_reorder)
    pd.testing.assert_series_equal(accuracy(changed), expected)
    # An accuracy of one half stays so when two classes are swapped; probabilities do not.
    pd.testing.assert_series_equal(cat_probability(changed), cat_probability(plain), atol=0.01)


@pytest.mark.promise("The labels of test images change no feature and no probability.")
def test_the_labels_of_test_images_change_no_feature_and_no_probability(plain, tmp_path):
    def permute(project: Project) -> None:
        test = [row for row in project.rows if row["split"] == "test"]
        labels = [row["label"] for row in test]
        for row, label in zip(test, labels[1:] + labels[:1], strict=True):
            row["label"] = label
        project.write()

    other = study(tmp_path, change=permute)
    ours, theirs = (open_features(p.features(DATASET)) for p in (plain, other))
    ids = sorted(ours.ids())
    for view in ("whole", "masked"):
        pairs = (of.image_features(view, ids) for of in (ours, theirs))
        np.testing.assert_array_equal(*pairs)
    np.testing.assert_array_equal(*(of.class_features(["cat", "dog"]) for of in (ours, theirs)))
    a, b = (read_tables(p)[1].astype({"image_id": str}) for p in (plain, other))
    a, b = (t[t["protocol"] == "official"].drop(columns="y_true") for t in (a, b))
    pd.testing.assert_frame_equal(a, b)


@pytest.mark.promise("One seed gives the same bits from images to metrics.")
def test_one_seed_gives_the_same_bits_from_images_to_metrics(plain, tmp_path):
    again = study(tmp_path)
    names = [plain.metrics(DATASET), plain.metrics_table(DATASET), plain.mask_quality(DATASET)]
    names += [*plain.plots(DATASET).iterdir(), *plain.cache(DATASET).glob("runs/*/*")]
    for file in names:
        same = again.root / file.relative_to(plain.root)
        assert same.read_bytes() == file.read_bytes(), file.name


@pytest.mark.promise(
    "Noise features are chance within the interval, for every learner and protocol."
)
def test_without_a_signal_every_learner_is_at_chance_within_its_interval(tmp_path):
    labels = [CLASSES[i % 3] for i in range(240)]
    manifest = make_manifest(labels, ["test" if i % 4 == 3 else "train" for i in range(240)])
    paths = make_project(tmp_path, manifest=manifest)  # `whole` is noise, `masked` is not
    params = small_params(
        splits__fractions=[1.0],
        splits__folds=3,
        train__views={p: ["whole", "masked"] for p in ("official", "grouped")},
        train__seeds=[0, 1, 2, 3, 4],
        evaluate__confidence=0.99,
        evaluate__bootstrap=400,
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    table = pd.read_parquet(paths.metrics_table("toy"))
    table = table[table["seed"] == -1]
    assert set(table["learner"]) == set(DEFAULT_LEARNERS)
    for metric, chance in (("accuracy", 1 / 3), ("balanced_accuracy", 1 / 3), ("macro_auroc", 0.5)):
        mine = table[table["metric"] == metric]
        noise = mine["view"] == "whole"
        at_chance = (mine["lo"] < chance) & (mine["hi"] > chance)
        assert noise.sum() == 12 and at_chance[noise].all() and not at_chance[~noise].any()
        assert (mine["hi"] - mine["lo"])[noise].max() < 0.45
        # Without an interval (all resamples equal) the value itself is above chance.
        assert (mine["lo"].fillna(mine["value"]) > chance)[~noise].all()
