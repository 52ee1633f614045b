"""A disk that takes no more, through the real commands: each stage says so with the remedy, what
was there before stays, and the next run with space ends as if nothing had been."""

from __future__ import annotations

import resource
from concurrent.futures import Future
from pathlib import Path

import pytest

from benchmarks.store_stage import store_content
from pipeline.store import verify_store

from .site import OUTPUTS, STAGES, STORES, Site, stage_command

LIMIT = 7000
"""Bytes a file may have: more than a run record, less than any stage's largest output."""


def stands(site: Site, stage: str, before: dict) -> bool:
    """Whether all that a stage had committed is there, bit for bit, and its store is whole."""
    if stage not in STORES:
        return site.outputs(stage) == before
    path = site.root / OUTPUTS[stage][0]
    return verify_store(path).ok and store_content(path) == before


def state(site: Site, stage: str) -> dict:
    """What `stands` compares."""
    return store_content(site.root / OUTPUTS[stage][0]) if stage in STORES else site.outputs(stage)


def limited_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def read_only_then_full_then_fine(site: Site, stage: str, whole: Site, bound: list[str]) -> None:
    before = state(site, stage)
    folders = [p for d in ("cache", "report") for p in (site.root / d).rglob("*") if p.is_dir()]
    folders += [site.root / "report"]
    for folder in folders:
        folder.chmod(0o555)
    site.stage(stage, before=bound).expect(2, "cannot write", "Permission denied", "writable")
    for folder in folders:
        folder.chmod(0o755)
    assert stands(site, stage, before)

    said = site.stage(stage, first=limited_file_size).expect(2, "cannot write", "ulimit -f")
    assert len(said.strip().splitlines()[-1]) < 300
    assert stands(site, stage, before)

    if stage not in STORES:  # once more with nothing there: no part of a file is left
        site.remove(stage)
        site.stage(stage, first=limited_file_size).expect(2, "cannot write", "ulimit -f")
        assert site.outputs(stage).items() <= whole.outputs(stage).items()
        assert site.leftovers() == []
    site.stage(stage).expect(0)
    assert site.outputs(stage) == whole.outputs(stage)
    assert site.leftovers() == []


@pytest.fixture(scope="module")
def chains(whole: Site, half: Site, tmp_path_factory, pool, no_override) -> dict[str, Future]:
    root = tmp_path_factory.mktemp("disk")
    return {
        stage: pool.submit(
            read_only_then_full_then_fine,
            whole.before(stage, half, root / stage),
            stage,
            whole,
            no_override,
        )
        for stage in STAGES
    }


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder_and_a_file_size_limit_stop_a_stage_and_nothing_is_lost(
    chains: dict[str, Future], stage: str
) -> None:
    chains[stage].result()


SMALL_DISK = """
mount -t tmpfs -o size=16m tmpfs cache && cp -a kept/. cache/ || exit 99
dd if=/dev/zero of=cache/filler bs=4k 2>/dev/null
truncate -s -$FREE cache/filler
"$@"
echo "full: $?"
cp -a cache/. after/
rm cache/filler
"$@"
echo "free: $?"
cp -a cache/. kept/
"""


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_a_file_system_that_fills_up_stops_a_stage_and_nothing_is_lost(
    whole: Site, half: Site, tmp_path: Path, own_mounts: list[str], stage: str
) -> None:
    site = whole.before(stage, half, tmp_path / "site")
    if stage == "audit":  # with its thumbnails there it writes next to nothing
        site.remove(stage)
    before = state(site, stage)
    (site.root / "cache").rename(site.root / "kept")
    for name in ("cache", "after"):
        (site.root / name).mkdir()
    script = [*own_mounts, "bash", "-c", SMALL_DISK, "bash"]
    # Less than its largest file.
    done = site.run(*stage_command(stage), before=script, FREE="12k")
    done.expect(0, "No space left on device", "free some space", "full: 2", "free: 0")
    (site.root / "cache").rmdir()
    (site.root / "after").rename(site.root / "cache")
    assert stands(site, stage, before)
    assert stage != "audit" or site.leftovers() == []  # no part of the thumbnails
    (site.root / "cache").rename(site.root / "after")
    (site.root / "kept").rename(site.root / "cache")
    assert site.outputs(stage) == whole.outputs(stage)


READ_ONLY = 'mount --bind "$FOLDER" "$FOLDER" && mount -o remount,bind,ro "$FOLDER" && "$@"'


@pytest.mark.parametrize(("stage", "folder"), [("encode", "cache"), ("report", "report")])
def test_a_read_only_mount_stops_a_stage_with_the_path_and_the_remedy(
    whole: Site, half: Site, tmp_path: Path, own_mounts: list[str], stage: str, folder: str
) -> None:
    site = whole.before(stage, half, tmp_path / "site")
    before = state(site, stage)
    script = [*own_mounts, "bash", "-c", READ_ONLY, "bash"]
    done = site.run(*stage_command(stage), before=script, FOLDER=folder)
    done.expect(2, "cannot write", "Read-only file system", folder)
    assert stands(site, stage, before)
