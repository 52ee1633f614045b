"""The benchmark of peers: both sides of a task do the same."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer_tasks import TASKS, prepare


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    prepare(folder, [], 3, 96, "sam2-micro", None)
    return folder


@pytest.mark.promise(
    "Masks and features are those of the plain SAM2 predictor and open_clip loops, for one image "
    "at a time as for batches."
)
@pytest.mark.parametrize("name", ["box", "encode"])
def test_a_task_does_the_same_on_both_sides(images: Path, name: str) -> None:
    task = TASKS[name]
    found = [side(images)() for side in (task.ours, task.theirs)]
    assert len(found[0]) == len(found[1]) == 3
    assert task.agree(*found, images) in ("1.0000 equal", "cosine 1.0000")


def test_copies_are_counted_as_found_and_as_false(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/known.json").write_text('[[[0, 1], [2, 3]], ["a", "a", "b", "b", "c"]]')
    ours, theirs = np.array([[1, 0], [2, 3], [3, 2]]), np.array([[0, 4], [0, 1]])
    text = TASKS["audit"].agree(ours, theirs, tmp_path)
    assert text == "1.000 found, 0 false; peer 0.500 found, 1 false"
