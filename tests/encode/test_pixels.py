"""Pixels for learners: the frames that the encode stage shows CLIP, made once, kept on the disk."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline import open_features, open_masks
from pipeline.encode.encode import encode_items
from pipeline.encode.mapper import EncodeMapper, normalise
from pipeline.encode.pixels import PixelMapper, make_pixels
from pipeline.errors import ConfigError, StoreError
from pipeline.io import FileHashes
from pipeline.manifest import read_manifest
from tests.encode import test_stage
from tests.encode.conftest import MEAN, STD
from tests.encode.test_stage import DATASET, VIEWS, picture

project, segment, run = test_stage.project, test_stage.segment, test_stage.run
ONCE = "Pixels are the frames of the encode stage, made once, kept from run to run."


def pixels_of(project, view="masked", size=32, needed=None, **changed):
    """The pixels of all images of the project, in the order of their ids."""
    manifest = read_manifest(project.paths.manifest(DATASET))
    ids, store = (
        np.array(sorted(manifest["image_id"])),
        open_features(project.paths.features(DATASET)),
    )
    which = view, size, ids, ids if needed is None else needed
    return make_pixels(DATASET, project.params(**changed), project.paths, manifest, store, *which)


@pytest.fixture
def counted(monkeypatch):
    """The ids of the images that were read."""
    read, load = [], PixelMapper.load
    monkeypatch.setattr(PixelMapper, "load", lambda s, i: read.append(i.image_id) or load(s, i))
    return read


@pytest.mark.promise(ONCE)
def test_they_are_exactly_what_the_encode_stage_shows_the_model(project, run, clip):
    project.add("6.png", *picture(6, 30, 44), label="cat")
    project.row("6.png")["mask_path"] = ""  # no mask, and no ground truth for the oracle view
    project.write()
    run(encode__max_failed=0.5)
    good, masks = [f"{i}.png" for i in range(5)], open_masks(project.paths.masks(DATASET))
    manifest, data = read_manifest(project.paths.manifest(DATASET)), project.paths.data(DATASET)
    for view in VIEWS:
        pixels = pixels_of(project, view, needed=good, encode__views=VIEWS)
        stage = EncodeMapper(project.params(encode__views=[view]).encode, clip, masks)
        for row, item in enumerate(encode_items(manifest[:5], data, masks, [view], FileHashes())):
            frame = pickle.loads(pickle.dumps(pixels))[np.array([row])]
            assert np.array_equal(normalise(frame, MEAN, STD), stage.load(item).pixels)
        assert pixels.rows.tolist() == [0, 1, 2, 3, 4, -1]
    assert pixels_of(project, view, 16, good)[np.arange(5)].shape == (5, 16, 16, 3)


@pytest.mark.promise(ONCE)
def test_only_what_is_missing_or_has_changed_is_made(project, run, segment, counted):
    run()
    first = pixels_of(project)
    before = first[np.arange(5)]
    assert sorted(counted) == [f"{i}.png" for i in range(5)]
    counted.clear()
    project.add("copy of 1.png", *picture(1, 35, 54))
    project.add("new.png", *picture(9, 30, 44))
    segment()
    pixels = pixels_of(project)
    assert counted == ["new.png"] and pixels.rows[1] == pixels.rows[5]
    assert np.array_equal(pixels[np.arange(5)], before)
    # A process that was killed has left frames without a key, or a part of either.
    data, keys = pixels.source, pixels.source.with_suffix(".keys")
    data.write_bytes(data.read_bytes() + b"torn")
    keys.write_text(keys.read_text()[:-3])
    assert np.array_equal(pixels_of(project)[np.arange(5)], before)
    assert counted == ["new.png"] * 2
    keys.write_text(keys.read_text().replace('"pad"', '"squash"'))  # other rules
    assert np.array_equal(pixels_of(project)[np.arange(5)], before)
    assert len(counted) == 2 + 6 and np.array_equal(first[np.arange(5)], before)


def test_an_image_that_fails_is_named_and_the_others_are_kept(project, run, counted):
    run()
    project.file("3.png").write_bytes(b"no image")
    with pytest.raises(StoreError, match=r"1 image\(s\) have no pixels: '3\.png': .*bytes"):
        pixels_of(project)
    project.add("3.png", *picture(3, 45, 42), label="cat")
    counted.clear()
    del project.rows[3]
    project.write()
    pixels_of(project)
    assert counted == ["3.png"]


def test_a_view_that_is_no_image_or_another_reader_is_refused(project, run):
    run()
    with pytest.raises(ConfigError, match=r"inside has no pixels.*whole, masked"):
        pixels_of(project, "inside")
    with pytest.raises(StoreError, match=r"read in another way.*run encode again"):
        pixels_of(project, images__window={"center": 40, "width": 400})
