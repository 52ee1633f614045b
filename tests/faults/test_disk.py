"""A disk that takes no more: each stage says so with the remedy, what was there before stays, and
the next run with space ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import STORES, Site

from .checks import assert_same, rows

SAID = (
    "A full disk, a file size limit or a read-only folder stops a stage with the remedy; nothing "
    "is lost."
)
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000))"
"""Bytes that a file may have: more than a run record, less than any stage's largest output."""

SMALL_DISK = """
import atexit
shell("mount -t tmpfs -o size=32m tmpfs cache && cp -a kept/. cache/")
shell("dd if=/dev/zero of=cache/filler bs=4k 2>/dev/null || true; truncate -s -8k cache/filler")
atexit.register(shell, "rm cache/filler && cp -a cache/. after/")
"""


def kept(site: Site, stage: str) -> object:
    """What a stage had committed."""
    if stage not in STORES:
        return site.outputs(stage)
    return {i: [v.tobytes() for v in values] for i, values in rows(site, stage).items()}


@pytest.mark.promise(SAID)
@pytest.mark.parametrize("stage", ["segment", "train", "evaluate"])
def test_a_file_system_that_fills_up_stops_a_stage_and_nothing_is_lost(
    built: Site, half: Site, tmp_path: Path, own_mounts: str, stage: str
) -> None:
    site = built.before(stage, half, tmp_path / "site")
    before = kept(site, stage)
    (site.root / "cache").rename(site.root / "kept")
    for name in ("cache", "after"):
        (site.root / name).mkdir()
    said = site.stage(stage, code=2, first=own_mounts + SMALL_DISK)
    assert "No space left on device" in said and "free some space" in said
    (site.root / "cache").rmdir()
    (site.root / "after").rename(site.root / "cache")
    assert kept(site, stage) == before
    site.stage(stage)
    assert_same(stage, site, built)
    assert site.leftovers() == []


@pytest.mark.promise(SAID)
@pytest.mark.parametrize("stage", ["encode", "report"])
def test_a_read_only_folder_and_a_file_size_limit_stop_a_stage_and_nothing_is_lost(
    built: Site, half: Site, tmp_path: Path, no_override: str, stage: str
) -> None:
    site = built.before(stage, half, tmp_path / "site")
    before = kept(site, stage)
    folders = [p for d in ("cache", "report") for p in (site.root / d).rglob("*") if p.is_dir()]
    folders += [site.root / "report"]
    for folder in folders:
        folder.chmod(0o555)
    said = site.stage(stage, code=2, first=no_override)
    assert "Permission denied" in said and "writable" in said
    for folder in folders:
        folder.chmod(0o755)
    assert kept(site, stage) == before
    said = site.stage(stage, code=2, first=LIMIT)
    assert "ulimit -f" in said and len(said.strip().splitlines()[-1]) < 300
    assert kept(site, stage) == before
    site.stage(stage)
    assert_same(stage, site, built)
    assert site.leftovers() == []
