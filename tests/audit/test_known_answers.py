"""The real images: what is known about their copies (shared/data/README.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.audit import list_images
from pipeline.audit import audit_dataset, compare_datasets
from pipeline.paths import Paths
from tests.audit.folder import params


def project(root: Path, shared: Path, datasets: dict[str, str]) -> Paths:
    """List the images below a folder of each dataset."""
    paths = Paths(root)
    for dataset, folder in datasets.items():
        home = shared / "data" / dataset
        list_images(sorted((home / folder).rglob("*.*")), home, dataset, paths)
    return paths


def by_thumbnail(paths: Paths, dataset: str, *kinds: str) -> int:
    """Count the test images with a copy of these kinds in train, found by their thumbnails."""
    table = pd.read_parquet(paths.audit(dataset)).set_index("image_id")
    pairs = pd.read_parquet(paths.audit_pairs(dataset))
    pairs = pairs[pairs["leak"] & pairs["kind"].isin(kinds) & (pairs["by"] != "structure")]
    contents = table["exact_group"]  # of images with the same bytes one is paired for all
    leaked = contents[pd.concat([pairs["image_id_a"], pairs["image_id_b"]])]
    return int((contents.isin(leaked) & (table["split"] == "test")).sum())


@pytest.mark.promise("The known copies of the real sets are found.")
def test_covid_has_six_byte_identical_images_in_test(shared, tmp_path):
    paths = project(tmp_path, shared, {"covid": "."})
    summary = audit_dataset("covid", params(), paths)
    counts = summary["test_images_with_copy_in_train"]
    assert counts["byte_identical"] == by_thumbnail(paths, "covid", "byte", "near") == 6
    assert summary["unreadable"] == {}


@pytest.mark.promise("The known copies of the real sets are found.")
def test_breast_has_near_copies_of_conflicting_labels(shared, tmp_path):
    paths = project(tmp_path, shared, {"breast": "."})
    summary = audit_dataset("breast", params(mirrored=False), paths)
    pairs = pd.read_parquet(paths.audit_pairs("breast"))
    assert 85 <= (pairs["by"] != "structure").sum() <= 100, "about 91 near-copies are known"
    assert summary["label_conflict_groups"] >= 5
    groups = [{Path(name).stem for name in c["images"]} for c in summary["label_conflicts"]]
    assert any(group >= {"benign (433)", "malignant (145)"} for group in groups)


@pytest.mark.promise("The known copies of the real sets are found.")
@pytest.mark.timeout(1200)
def test_brain_has_the_known_copies_in_train(shared, tmp_path):
    """Thumbnails of the whole set; the counts are exact."""
    paths = project(tmp_path, shared, {"brain": "."})
    counts = audit_dataset("brain", params(), paths)["test_images_with_copy_in_train"]
    assert counts["byte_identical"] == 216
    assert by_thumbnail(paths, "brain", "byte", "near") == 479
    assert by_thumbnail(paths, "brain", "byte", "near", "mirror") == 937
    assert counts["near"] >= 479
    assert counts["any"] >= counts["near_or_mirrored"] >= 937


@pytest.mark.promise("Films of different patients are no copies.")
def test_normal_films_of_different_patients_are_never_copies(shared, tmp_path):
    """The publisher filed one film under two patient numbers; only that pair is found."""
    paths = project(tmp_path, shared, {"lung": "test/normal"})
    table = pd.read_csv(paths.manifest("lung"), dtype=str, keep_default_na=False)
    patient = table["path"].map(lambda p: re.search(r"(NORMAL2-)?IM-\d+", p).group(0))
    audit_dataset("lung", params(), paths)
    pairs = pd.read_parquet(paths.audit_pairs("lung"))
    owner = dict(zip(table["image_id"], patient, strict=True))
    strangers = pairs[pairs["image_id_a"].map(owner) != pairs["image_id_b"].map(owner)]
    assert strangers[["image_id_a", "image_id_b"]].to_numpy().tolist() == [
        ["test/normal/NORMAL2-IM-0095-0001.jpeg", "test/normal/NORMAL2-IM-0096-0001.jpeg"]
    ]
    assert patient.nunique() > 142  # more than 10,000 pairs of patients


@pytest.mark.promise("Copies across datasets are found.")
def test_contrast_changed_copies_across_covid_and_lung_are_found(shared, tmp_path):
    """The known pairs (of those in these folders) are found, and no Covid film has a copy."""
    known = pd.read_csv(shared / "data" / "covid_lung_overlap.csv")
    known = known[known["lung_path"].str.startswith("lung/test/")]
    paths = project(tmp_path, shared, {"covid": ".", "lung": "test"})
    pairs = compare_datasets("covid", "lung", params(mirrored=False), paths)
    found = set(zip("covid/" + pairs["image_id_a"], "lung/" + pairs["image_id_b"], strict=True))
    expected = set(zip(known["path"], known["lung_path"], strict=True))
    assert len(expected) >= 20 and expected <= found
    assert not pairs["image_id_a"].str.contains("/Covid/").any()
