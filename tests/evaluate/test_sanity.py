"""From images to metrics: what must not matter changes nothing, and no signal is chance."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import open_features
from pipeline.encode import encode_dataset
from pipeline.evaluate import evaluate_dataset
from pipeline.learners.train import train_dataset
from pipeline.paths import Paths
from pipeline.segment import segment_dataset
from tests.encode.conftest import small_clip
from tests.learners.projects import make_manifest, read_tables, small_params
from tests.learners.test_train import CLASSES, make_project
from tests.project import DATASET, Project

LEARNERS = ("zero-shot", "linear-probe", "medfocus", "medfocus-probe")
RUN = ["protocol", "learner", "view", "fraction", "seed"]
TEMPLATES = ("a photo of {}.", "a scan of {}.", "{}")


def draw(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Image i and its mask: its class is how bright the region is, more or less."""
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (28 + i % 5, 40 - i % 7, 3))
    mask = np.zeros(image.shape[:2], bool)
    mask[5:18, 6 : 16 + i % 9] = True
    image[mask] = image[mask] // 4 + (50 + 40 * (i % 2) + rng.integers(-25, 26))
    return image.clip(0, 255).astype(np.uint8), mask


def study(folder: Path, *, change=None, jobs: int = 1) -> Paths:
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
        segment__prompt="manifest",
        encode__views=["whole", "masked"],
        splits__folds=2,
    )
    segment_dataset(DATASET, params, project.paths, workers=1)
    encode_dataset(DATASET, params, project.paths, clip=small_clip(), workers=1)
    train_dataset(DATASET, params, project.paths, jobs=jobs)
    evaluate_dataset(DATASET, params, project.paths, jobs=jobs)
    return project.paths


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Paths:
    return study(tmp_path_factory.mktemp("plain"))


def accuracy(paths: Paths) -> pd.Series:
    """Accuracy of every run."""
    table = read_tables(paths)[1]
    hit = table["y_true"].astype(str) == table["y_pred"].astype(str)
    return hit.groupby([table[c] for c in RUN], observed=True).mean()


def cat_probability(paths: Paths) -> pd.Series:
    """The probability of "cat", or what it was renamed to, of every image in every run."""
    table = read_tables(paths)[1]
    column = "p:cat" if "p:cat" in table else "p:z"
    keys = [table[c].astype(str) if c == "image_id" else table[c] for c in [*RUN, "image_id"]]
    return table[column].groupby(keys, observed=True).first().rename("cat")


def reversed_rows(project: Project) -> None:
    project.rows.reverse()
    project.write()


def reversed_prompts(project: Project) -> None:
    """The classes of prompts.yaml, and the templates, in the reverse order."""
    project.prompts(*TEMPLATES[::-1])
    text = project.paths.prompts.read_text()
    swapped = text.replace("cat: a cat, dog: a dog", "dog: a dog, cat: a cat")
    assert swapped != text
    project.paths.prompts.write_text(swapped)


def renamed_classes(project: Project) -> None:
    """Other names of the same classes, so that the first in the alphabet becomes the last."""
    for row in project.rows:
        row["label"] = {"cat": "z", "dog": "a"}[row["label"]]
    project.write()
    text = project.paths.prompts.read_text()
    project.paths.prompts.write_text(text.replace("cat: a cat, dog: a dog", "z: a cat, a: a dog"))


def moved_folders(project: Project) -> None:
    """The images in class folders whose names turn the order of the files round."""
    for row in project.rows:
        place = f"{'a' if row['label'] == 'dog' else 'z'}/{row['path']}"
        project.file(place)
        shutil.move(project.file(row["path"]), project.file(place))
        row["path"] = place
    project.write()


@pytest.mark.parametrize(
    "change", (reversed_rows, reversed_prompts, renamed_classes, moved_folders)
)
def test_the_order_of_rows_prompts_classes_and_folders_changes_no_accuracy(plain, tmp_path, change):
    expected = accuracy(plain)
    assert expected.between(0.2, 0.95).mean() > 0.5  # neither lost nor perfect: order could show
    changed = study(tmp_path, change=change)
    pd.testing.assert_series_equal(accuracy(changed), expected)
    # Half right stays half right when two classes are mixed up: so the probabilities, too.
    pd.testing.assert_series_equal(cat_probability(changed), cat_probability(plain), atol=0.01)


def test_the_labels_of_test_images_change_no_feature_and_no_probability(plain, tmp_path):
    def permute(project: Project) -> None:
        test = [row for row in project.rows if row["split"] == "test"]
        labels = [row["label"] for row in test]
        moved = np.random.default_rng(0).permutation(labels)
        assert (moved != labels).any()
        for row, label in zip(test, moved, strict=True):
            row["label"] = str(label)
        project.write()

    other = study(tmp_path, change=permute)
    ours, theirs = (open_features(p.features(DATASET)) for p in (plain, other))
    ids = sorted(ours.ids())
    for view in ("whole", "masked"):
        np.testing.assert_array_equal(
            ours.image_features(view, ids), theirs.image_features(view, ids)
        )
    np.testing.assert_array_equal(
        ours.class_features(["cat", "dog"]), theirs.class_features(["cat", "dog"])
    )
    a, b = (read_tables(p)[1] for p in (plain, other))
    a, b = (t[t["protocol"] == "official"].drop(columns="y_true") for t in (a, b))
    pd.testing.assert_frame_equal(a, b)


def test_one_seed_gives_the_same_bits_from_images_to_metrics_for_one_job_and_two(plain, tmp_path):
    again = study(tmp_path, jobs=2)
    names = [plain.metrics(DATASET), plain.metrics_table(DATASET), plain.mask_quality(DATASET)]
    names += [*plain.plots(DATASET).iterdir()]
    names += plain.run(DATASET, "x").parent.glob("*/*")
    for file in names:
        same = again.root / file.relative_to(plain.root)
        assert same.read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("shuffled", (True, False), ids=("shuffled", "true"))
def test_shuffled_labels_are_chance_within_the_interval_for_every_head(tmp_path, shuffled):
    n = 240
    labels = [CLASSES[i % 3] for i in range(n)]
    manifest = make_manifest(labels, ["test" if i % 4 == 3 else "train" for i in range(n)])
    if shuffled:  # of train, validation and test; what the images show stays as it is
        manifest["label"] = np.random.default_rng(1).permutation(manifest["label"])
    paths = make_project(tmp_path, manifest=manifest)
    params = small_params(
        splits__fractions=[1.0],
        train__views={"official": ["masked"]},
        train__seeds=[0, 1, 2, 3, 4],
        evaluate__confidence=0.99,
        evaluate__bootstrap=400,
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    table = pd.read_parquet(paths.metrics_table("toy"))
    table = table[(table["seed"] == -1) & (table["metric"] == "accuracy")].set_index("learner")
    assert set(table.index) == set(LEARNERS)
    assert (table["hi"] - table["lo"] < 0.45).all()
    at_chance = (table["lo"] < 1 / 3) & (table["hi"] > 1 / 3)
    assert at_chance.all() if shuffled else not at_chance.any()


def test_noise_features_are_chance_within_the_interval_for_every_head_and_protocol(tmp_path):
    n = 240
    labels = [CLASSES[i % 3] for i in range(n)]
    manifest = make_manifest(labels, ["test" if i % 4 == 3 else "train" for i in range(n)])
    paths = make_project(tmp_path, manifest=manifest)  # `whole` is noise, `masked` is not
    params = small_params(
        splits__fractions=[0.2, 1.0],
        splits__folds=3,
        train__views={"official": ["whole", "masked"], "grouped": ["whole", "masked"]},
        train__seeds=[0, 1, 2, 3, 4],
        evaluate__confidence=0.99,
        evaluate__bootstrap=400,
    )
    train_dataset("toy", params, paths)
    evaluate_dataset("toy", params, paths)
    table = pd.read_parquet(paths.metrics_table("toy"))
    table = table[table["seed"] == -1]
    for metric, chance in (
        ("accuracy", 1 / 3),
        ("balanced_accuracy", 1 / 3),
        ("macro_auroc", 1 / 2),
    ):
        mine = table[table["metric"] == metric]
        noise, signal = (mine[mine["view"] == view] for view in ("whole", "masked"))
        assert set(noise["learner"]) == set(LEARNERS)
        assert set(noise["protocol"]) == {"official", "grouped", "grouped-pooled"}
        assert len(noise) == 3 * (3 * 2 + 1)  # protocols x (heads x fractions + zero-shot)
        assert ((noise["lo"] < chance) & (noise["hi"] > chance)).all()
        assert (noise["hi"] - noise["lo"] < 0.45).all()
        assert (signal["lo"].fillna(signal["value"]) > chance).all()  # all alike: no interval
