"""A disk that takes no more: each stage says so with the remedy, what was there before stays, and
the next run with space ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import STORES, Site

from .conftest import assert_same, rows

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000))"
"""Bytes that a file may have: more than a run record, less than any stage's largest output."""

SMALL_DISK = """
import atexit
shell("mount -t tmpfs -o size=32m tmpfs cache && cp -a kept/. cache/")
shell("dd if=/dev/zero of=cache/filler bs=4k 2>/dev/null || true; truncate -s -8k cache/filler")
atexit.register(shell, "rm cache/filler && cp -a cache/. after/")
"""


def fails(site: Site, stage: str, first: str) -> str:
    """Run a stage on a disk that takes no more, which loses nothing; return what it said."""

    def kept() -> object:
        if stage not in STORES:
            return site.outputs(stage)
        return {i: [v.tobytes() for v in values] for i, values in rows(site, stage).items()}

    before, cache = kept(), site.root / "cache"
    small_disk = first.endswith(SMALL_DISK)
    if small_disk:
        cache.rename(site.root / "kept")
        for name in ("cache", "after"):
            (site.root / name).mkdir()
    said = site.stage(stage, code=2, first=first)
    if small_disk:
        cache.rmdir()
        (site.root / "after").rename(cache)
    assert kept() == before
    return said


@pytest.mark.promise(
    "A full disk, a file size limit or a read-only folder stops a stage with the remedy; nothing "
    "is lost."
)
@pytest.mark.parametrize("stage", ["segment", "encode", "train", "evaluate"])
def test_a_disk_that_takes_no_more_stops_a_stage_and_nothing_is_lost(
    built: Site, half: Site, tmp_path: Path, request: pytest.FixtureRequest, stage: str
) -> None:
    site = built.before(stage, half, tmp_path / "site")
    if stage in ("segment", "train"):
        said = fails(site, stage, request.getfixturevalue("own_mounts") + SMALL_DISK)
        assert "No space left on device" in said and "free some space" in said
    else:
        folders = [p for d in ("cache", "report") for p in (site.root / d).rglob("*/")]
        for folder in [*folders, site.root / "report"]:
            folder.chmod(0o555)
        said = fails(site, stage, request.getfixturevalue("no_override"))
        assert "Permission denied" in said and "writable" in said
        for folder in [*folders, site.root / "report"]:
            folder.chmod(0o755)
        said = fails(site, stage, LIMIT)
        assert "ulimit -f" in said and len(said.strip().splitlines()[-1]) < 300
    site.stage(stage)
    assert_same(stage, site, built)
    assert site.leftovers() == []
