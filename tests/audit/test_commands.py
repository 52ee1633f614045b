"""The leak audit on the real command line: folders of copies in, counts, names and splits out."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.audit.folder import REPO, gamma, texture
from tests.audit.test_copies import COPIES, resaved
from tests.project import in_process

# Images of test, made from the train image of that number.
CHANGES = {
    "0 same bytes": None,
    "1 re-saved": COPIES["resaved"][0],
    "3 brightened": COPIES["brighter"][0],
    "4 contrast": COPIES["less contrast"][0],
    "7 mirrored": COPIES["mirrored"][0],
    "8 turned": COPIES["turned 90"][0],
}
RELABELLED = "3 brightened"


def run(root: Path, *arguments: str) -> str:
    """Run `pipeline ...` in a project folder; return what it printed."""
    code, said = in_process(root, *arguments)
    assert code == 0, said
    return said


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(image)).save(file)


def label(name: str) -> str:
    return "a" if int(name[0]) % 2 else "b"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with the dataset "scans", and "others" that shares two pictures with it."""
    base = tmp_path_factory.mktemp("audit")
    root, scans, others = base / "project", base / "scans", base / "others"
    root.mkdir()
    (root / "params.yaml").write_text((REPO / "params.yaml").read_text())
    for name, change in CHANGES.items():
        image = texture(int(name[0]))
        there = ("a" if label(name) == "b" else "b") if name == RELABELLED else label(name)
        save(scans / "train" / label(name) / f"{name[0]} original.png", image)
        save(scans / "test" / there / f"{name}.png", image if change is None else change(image))
    shutil.copy(scans / "test/b/4 contrast.png", scans / "test/b/9 contrast again.png")
    for k in range(4):  # copies of nothing
        for at, split in enumerate(("train", "test")):
            save(scans / split / "ab"[k % 2] / f"single {k}.png", texture(50 + 2 * k + at))
    save(others / "train" / "a" / "contrast.png", gamma(texture(1)))
    save(others / "train" / "b" / "again.png", resaved(texture(57)))
    save(others / "train" / "b" / "new.png", texture(90))
    for name, folder in (("scans", scans), ("others", others)):
        run(root, "data", "add", name, "--from", str(folder))
    return root


@pytest.fixture(scope="module")
def said(project) -> str:
    return run(project, "data", "check", "--dataset", "scans")


@pytest.mark.promise("Copies with different labels are named.")
@pytest.mark.promise(
    "`data check` counts the test images that have a copy in train, by kind, and names both sides."
)
def test_check_counts_copies_in_both_train_and_test_by_kind_and_names_both_sides(said):
    assert "21 images, 11 of them test" in said
    counts = re.findall(r"^  (\d+) (with|near|mirrored|turned)", said, re.M)
    assert counts == [("1", "with"), ("5", "near"), ("6", "mirrored"), ("7", "turned")]
    for name in CHANGES:
        (line,) = [line for line in said.splitlines() if f"/{name}.png =" in line]
        assert f"train/{label(name)}/{name[0]} original.png" in line
        assert {"0": "same bytes", "7": "mirrored", "8": "turned"}.get(name[0], "near-copy") in line
    assert "single" not in said
    part = said[said.index("1 groups of copies with several labels") :]
    assert f"test/b/{RELABELLED}.png, train/a/{RELABELLED[0]} original.png: a, b" in part


@pytest.mark.promise("Copies across datasets are found.")
def test_check_finds_the_copies_in_another_dataset_by_name(project):
    against = ("data", "check", "-d", "scans", "--against", "others")
    output = run(project, *against)
    part = output[output.index("pairs of copies across it and others") :]
    assert re.search(r"1 original\.png = others: train/a/contrast\.png \(near-copy", part)
    assert "= others: train/b/again.png (near-copy" in part
    assert "new.png" not in part
    assert len(json.loads(run(project, *against, "--json"))["copies_in_others"]) >= 2


@pytest.mark.promise("`splits.on_leak` is honoured by `splits export`.")
@pytest.mark.parametrize("on_leak", ["warn", "drop-test"])
def test_splits_export_honours_on_leak(project, said, on_leak):
    leak = f"splits.on_leak={on_leak}"
    run(project, "splits", "export", "-d", "scans", "--out", "s.csv", "--set", leak)
    with open(project / "s.csv", newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if (r["protocol"], r["seed"]) == ("official", "0")]
    test = {row["image_id"] for row in rows if row["part"] == "test"}
    singles = {f"test/{'ab'[k % 2]}/single {k}.png" for k in range(4)}
    assert (test == singles) if on_leak == "drop-test" else (singles < test and len(test) == 11)


@pytest.mark.promise(
    "Known groups are joined, those in both train and test are counted, and none is overwritten."
)
def test_known_groups_in_both_train_and_test_are_counted(project, tmp_path):
    table, scans = tmp_path / "groups.csv", project.parent / "scans"
    names = ("train/a/single 0.png,s1", "test/a/single 0.png,s1", "train/b/single 1.png,s2")
    table.write_text("path,series\n" + "\n".join(names))
    run(project, "data", "add", "scans", "--from", str(scans), "--groups", str(table))
    output = run(project, "data", "check", "-d", "scans")
    assert "1 of 2 known groups are in test and in train or val (1 test images)" in output
