"""A dataset of which nothing, or a part, can be read: exit code, counts in record and report."""

from __future__ import annotations

import shutil

import pytest

from tests.project import in_process
from tests.site import IMAGES, Site, stage_command

PAGE = b"<!DOCTYPE html><html>Sign in</html>"
READERS = ("audit", "segment", "prompt_quality", "encode")
"""The stages that read images."""
SHARES = (
    "In each stage that reads images, a dataset of which more than the stated share cannot be read "
    "exits 3, with the counts in record, status and report; `data check` names them and exits 3."
)


def break_images(site: Site, count: int) -> list[str]:
    """Turn the first images into web pages; return their ids."""
    for row in site.rows()[:count]:
        (site.root / "data/breast" / row["path"]).write_bytes(PAGE)
    return site.ids()[:count]


@pytest.mark.promise(SHARES)
def test_a_dataset_of_which_nothing_can_be_read_exits_3_and_is_counted_everywhere(
    fresh: Site,
) -> None:
    ids = break_images(fresh, IMAGES)
    fresh.params(segment__prompt="center-box", prompt_quality__strategies=["center-box"])
    for stage in READERS:
        options = ["--set", f"{stage}.max_failed=0.99"]
        wanted = set(ids)
        if stage == "prompt_quality":  # all images whose ground truth is not empty
            options += ["--images", "0"]
            wanted = {row["image_id"] for row in fresh.rows() if row["mask_area"] != "0"}
        assert in_process(fresh.root, *stage_command(stage), *options)[0] == 3
        record = fresh.record(stage)
        assert (record["status"], record["total"]) == ("failed", len(wanted))
        assert set(record["failed"]) == wanted and record["failed_share"] == 1
    assert in_process(fresh.root, *stage_command("train"))[0] == 2
    assert "failed" in in_process(fresh.root, "status")[1]


@pytest.mark.promise(SHARES)
def test_a_part_that_cannot_be_read_fails_above_the_stated_share_and_passes_below(
    fresh: Site,
) -> None:
    names = break_images(fresh, 2)
    for allowed, code, status in (("0.1", 3, "failed"), ("0.125", 0, "ok")):
        for stage in ("audit", "segment", "encode"):
            options = ("--set", f"{stage}.max_failed={allowed}")
            assert in_process(fresh.root, *stage_command(stage), *options)[0] == code
            record = fresh.record(stage)
            assert record["status"] == status and set(record["failed"]) == set(names)
            assert record["failed_share"] == 2 / IMAGES
    # No table is made with images silently missing: who leaves them out says so in the manifest.
    code, said = in_process(fresh.root, *stage_command("train"))
    assert code == 2 and all(name in said for name in names)
    in_process(fresh.root, "report")
    page = (fresh.root / "report/index.html").read_text()
    assert all(name in page for name in names)


@pytest.mark.promise(SHARES)
def test_data_check_names_what_cannot_be_read_in_either_set_and_exits_3(fresh: Site) -> None:
    shutil.copytree(fresh.root / "data/breast", fresh.root / "data/sound")
    shutil.copy(fresh.root / "data_manifests/breast.csv", fresh.root / "data_manifests/sound.csv")
    names = break_images(fresh, 2)
    check = ("data", "check", "--dataset")
    for command in ((*check, "breast"), (*check, "sound", "--against", "breast")):
        code, said = in_process(fresh.root, *command)
        assert code == 3 and all(name in said for name in names)
    share = ["--set", "audit.max_failed=0.125"]
    assert in_process(fresh.root, *check, "sound", "--against", "breast", *share)[0] == 0
