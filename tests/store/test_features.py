"""Features are joined by id and class name, never by position."""

import shutil

import numpy as np
import pytest

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from pipeline.errors import StoreError
from pipeline.store import FeatureRow, FeatureStoreWriter, open_features, verify_store
from pipeline.store.items import WorkItem

DIM = 6
LABELS = {"a": "cat", "b": "dog", "c": "cat", "d": "ant"}
SPLITS = {"a": "train", "b": "train", "c": "test", "d": "train"}


def features_of(name):
    """One row of features: whole and masked, or only whole for image b."""
    row = np.random.default_rng(ord(name)).normal(size=(2, DIM)).astype(np.float32)
    if name == "b":
        row[1] = np.nan
    return row


def items_of(names):
    return [
        WorkItem(n, f"k{n}", None, 0, {"label": LABELS[n], "split": SPLITS[n], "sha256": n})
        for n in names
    ]


def write(path, names, rows=None):
    """Write the features of some images in one run."""
    items, rows = items_of(names), rows or [features_of(name) for name in names]
    with FeatureStoreWriter(path, {}, views=("whole", "masked"), dim=DIM) as writer:
        writer.plan(items)
        writer.write(items, [FeatureRow(*one) for one in zip(names, rows, strict=True)])
        writer.set_text(
            text_features(), classes=["dog", "cat", "ant"], templates=["a {}", "the {}"],
            identity={"t": 1}, prompts={"dog": ["a dog", "the dog"]},
        )  # fmt: skip
    return path


@pytest.fixture
def path(tmp_path):
    """A store of a, b, c, d written in another order, with text features."""
    return write(tmp_path / "features.zarr", "dacb")


def text_features():
    return np.random.default_rng(9).normal(size=(3, 2, DIM)).astype(np.float32)


@pytest.mark.promise("`xy` has one order of rows, however the store was filled.")
@pytest.mark.parametrize("runs", [["dacb"], ["c", "bd", "a"], ["abcd", "b"]])
def test_rows_come_sorted_by_id_in_whatever_order_they_were_written(tmp_path, runs):
    for names in runs:
        path = write(tmp_path / "features.zarr", names)
    store = open_features(path)
    assert [*store] == [*store.table().index] == [*store.ids()] == ["a", "b", "c", "d"]
    named = store.to_pandas("whole").query("split == 'train'")
    assert [*store.ids("train")] == [*"abd"] == [*named.index]
    X, y = store.xy("whole", "train")
    np.testing.assert_array_equal(X, [features_of(n)[0] for n in "abd"])
    assert y.tolist() == [1, 2, 0]


@pytest.mark.promise("Rows are joined by image id or class name, never by position.")
def test_xy_of_a_split_gives_each_image_its_own_row_and_label(path):
    store = open_features(path)
    X, y = store.xy("whole", "train")
    ids = store.ids("train")
    assert X.dtype == np.float32 and y.dtype == np.int64 and sorted(ids) == ["a", "b", "d"]
    for k, name in enumerate(ids):
        np.testing.assert_array_equal(X[k], features_of(name)[0])
        assert ["ant", "cat", "dog"][y[k]] == LABELS[name]


def test_xy_of_ids_keeps_their_order_and_counts_classes_by_the_names_given(path):
    X, y = open_features(path).xy("whole", ids=["c", "a", "b"], classes=["dog", "cat"])
    np.testing.assert_array_equal(X, [features_of(n)[0] for n in "cab"])
    assert y.tolist() == [1, 1, 0]
    with pytest.raises(StoreError, match="ant"):
        open_features(path).xy("whole", classes=["dog", "cat"])


def test_a_view_that_an_image_lacks_is_an_error_or_left_out_never_zeros(path):
    store = open_features(path)
    with pytest.raises(StoreError, match="'b'"):
        store.xy("masked", "train")
    X, _ = store.xy("masked", "train", missing="drop")
    assert len(X) == 2 and np.isfinite(X).all()
    assert np.isnan(store.image_features("masked", ["b"])).all()


@pytest.mark.parametrize("arguments", [{"view": "nope"}, {"split": "nope"}, {"ids": ["nope"]}])
def test_unknown_views_splits_and_ids_are_named(path, arguments):
    with pytest.raises(StoreError, match="nope"):
        open_features(path).xy(**{"view": "whole", **arguments})


def test_failed_images_are_named_or_left_out(tmp_path):
    items = make_items(tmp_path, 6)
    items[2].path.write_bytes(b"gone")
    run_cheap("features", tmp_path, items, max_failed=1.0)
    store = open_features(store_path(tmp_path, "features"))
    with pytest.raises(StoreError, match=items[2].image_id):
        store.xy("whole", ids=[i.image_id for i in items])
    X, y = store.xy("whole", missing="drop")
    assert len(X) == len(y) == 5


@pytest.mark.promise("Rows are joined by image id or class name, never by position.")
def test_class_features_average_normalised_templates_in_the_order_asked_for(path):
    T = text_features()[0].astype(np.float64)
    mean = (T / np.linalg.norm(T, axis=1, keepdims=True)).mean(axis=0)
    expected = mean / np.linalg.norm(mean)
    store = open_features(path)
    named = store.text_features.sel({"class": "cat", "template": "the {}"})
    np.testing.assert_array_equal(named, text_features()[1, 1])
    assert store.attrs["prompts"] == {"dog": ["a dog", "the dog"]}
    np.testing.assert_allclose(store.class_features(["ant", "dog"])[1], expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(store.class_features(), axis=1), 1, rtol=1e-6)
    with pytest.raises(StoreError, match="cow"):
        store.class_features(["cow"])


def test_damaged_text_is_an_error_and_is_written_again_by_the_next_run(tmp_path):
    items = make_items(tmp_path, 3)
    run_cheap("features", tmp_path, items)
    path = store_path(tmp_path, "features")
    shutil.rmtree(path / "text_features" / "c")
    with pytest.raises(StoreError, match="text features are lost or damaged"):
        _ = open_features(path).text_features
    assert not verify_store(path).ok
    assert run_cheap("features", tmp_path, items).done == 0
    assert open_features(path).classes == ("cat", "dog") and verify_store(path).ok


@pytest.mark.parametrize(
    "row", [np.zeros((1, DIM)), np.zeros((2, DIM + 1)), np.full((2, DIM), np.inf)]
)
def test_features_of_another_shape_or_not_finite_are_refused(tmp_path, row):
    with pytest.raises(ValueError):
        write(tmp_path / "f.zarr", "a", [row])
