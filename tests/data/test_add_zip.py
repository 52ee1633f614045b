"""Intake of zips: extracted whole, or refused with the cause and nothing written."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest, write_manifest
from tests.data.conftest import picture, zip_of


@pytest.mark.promise(
    "The same zip can be added again; another version of it is refused with a way that works."
)
def test_the_same_zip_can_be_added_again_and_a_changed_one_is_refused_with_a_way_that_works(
    scans, tmp_path, paths
):
    source = zip_of(tmp_path / "s.zip", scans, "wrap/")
    add_dataset("d", source, paths=paths)
    frame = read_manifest(paths.manifest("d"))
    frame.loc[3, "box"] = "1,1,5,5"
    write_manifest(frame, paths.manifest("d"))
    again = add_dataset("d", source, paths=paths)
    assert again.changed == {"added": 0, "removed": 0, "changed": 0}
    assert read_manifest(paths.manifest("d")).loc[3, "box"] == "1,1,5,5"

    picture(scans / "train" / "cat" / "new.png", seed=1)
    source = zip_of(tmp_path / "s.zip", scans, "wrap/")
    before = paths.manifest("d").read_bytes()
    with pytest.raises(ManifestError, match="holds other images") as caught:
        add_dataset("d", source, paths=paths, force=True)
    assert "unpack the new images into it and pass it as --from" in str(caught.value)
    assert paths.manifest("d").read_bytes() == before
    shutil.copytree(scans, paths.data("d"), dirs_exist_ok=True)
    assert add_dataset("d", paths.data("d"), paths=paths).changed["added"] == 1


def _with(entry: str | zipfile.ZipInfo, size: int = 1):
    """A function that appends an entry of zeros to a zip."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(entry, bytes(size))

    return spoil


LINK = zipfile.ZipInfo("train/cat/link.png")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
_bomb = _with("train/cat/bomb.png", 2**27)


def _lying(path: Path) -> None:
    """State a size of 1 byte for an entry of 128 MB."""
    _bomb(path)
    path.write_bytes(path.read_bytes().replace((2**27).to_bytes(4, "little"), b"\1\0\0\0"))


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[120] ^= 0xFF  # inside the first picture
    path.write_bytes(raw)


def _doubled(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        _with("train/cat/0.png")(path)


SPOILED_ZIPS = {
    "climbs": (_with("../out.png"), "leads out of its folder"),
    "absolute": (_with("/out.png"), "leads out of its folder"),
    "drive": (_with("C:/out.png"), "leads out of its folder"),
    "backslashes": (_with("a\\b.png"), "backslashes"),
    "link": (_with(LINK), "link or device"),
    "bomb": (_bomb, "zip bomb"),
    "lying bomb": (_lying, "damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cut short"),
    "flipped": (_flip, "damaged"),
    "doubled": (_doubled, "comes twice"),
    "no zip": (lambda path: path.write_bytes(b"<html>"), "not a zip"),
}


@pytest.mark.promise("A zip that leads out of its folder, is a bomb or is cut writes nothing.")
@pytest.mark.parametrize("kind", SPOILED_ZIPS)
def test_a_zip_that_is_not_sound_is_refused_and_nothing_is_written(scans, tmp_path, paths, kind):
    spoil, expected = SPOILED_ZIPS[kind]
    source = zip_of(tmp_path / "s.zip", scans)
    spoil(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManifestError, match=expected) as caught:
        add_dataset("d", source, paths=paths)
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before
