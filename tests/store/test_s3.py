"""Images and stores on a real S3 server: the same rows as in a folder, whatever becomes of it."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from benchmarks.cheap_stage import CheapMapper, make_items, manifest_of, store_path
from benchmarks.store_stage import store_content
from pipeline import open_features, open_masks, remote
from pipeline.engine import cluster
from pipeline.engine.options import RunOptions
from pipeline.engine.record import RunRecord
from pipeline.engine.run import LocalExecutor, run_items
from pipeline.errors import PipelineError, RemoteError, StageFailed, StoreError
from pipeline.images import read_image
from pipeline.intake.add import refresh_dataset
from pipeline.io import FileHashes, digest_files, read_text_csv
from pipeline.manifest import read_manifest
from pipeline.paths import Paths
from pipeline.store import MaskStoreWriter, verify_store
from pipeline.store.lock import RemoteLock
from tests import warm
from tests.project import DATASET, Project, in_process, write_params
from tests.segment.small_sam2 import scene
from tests.site import Site

AWAY = (
    "A store on S3 whose server stops in the middle of a run loses no committed row; the run waits "
    "for it a while, and a rerun computes only what is missing."
)


def run(folder, items, root, *, commit_seconds=60.0, **options):
    """Run the stage without a model; its record is in the folder, its store below `root`."""
    mapper = CheapMapper("masks")
    path = store_path(root, "masks")
    with MaskStoreWriter(path, mapper.identity, commit_seconds=commit_seconds) as writer:
        writer.sync_manifest(manifest_of(items))
        record = RunRecord("masks"), folder / "masks.json"
        how = {"max_failed": 0, "executor": LocalExecutor(4, 1)}
        options = RunOptions(progress=False, **options)
        run_items(*record, items, lambda: mapper, writer, options, **how)
    return mapper


@pytest.fixture
def items(tmp_path):
    return make_items(tmp_path, 12)


@pytest.fixture
def expected(tmp_path, items):
    run(tmp_path, items, tmp_path)
    return store_content(store_path(tmp_path, "masks"))


@pytest.mark.promise("A store on S3 holds the rows of one in a folder, to the bit.")
def test_a_store_at_a_url_is_that_of_a_folder(s3, place, tmp_path, items, expected):
    run(tmp_path, items, place, limit=8)
    assert len(run(tmp_path, items, place).mapped) == 4
    path = store_path(place, "masks")
    assert store_content(path) == expected and verify_store(str(path)).ok
    assert not remote.exists(path.with_name("masks.zarr.lock"))
    store = open_masks(str(path))
    s3.asked.clear()
    assert store[items[5].image_id].shape == (24, 24)
    assert s3.asked == {"GET": 2}  # the table of the shard, and the row
    assert len(pickle.loads(pickle.dumps(store))) == 12
    assert xr.open_zarr(str(path)).sizes["image"] == 12
    code, said = in_process(tmp_path, "verify", str(path))
    assert code == 0 and "ok: 12 rows" in said


@pytest.mark.promise(AWAY)
def test_a_server_that_is_away_for_a_moment_is_waited_for(
    s3, place, tmp_path, items, expected, monkeypatch
):
    monkeypatch.setattr(remote, "WAITS", (0.5, 1.0, 2.0, 4.0, 8.0))

    def start_again():
        while s3.server is not None:
            time.sleep(0.01)
        time.sleep(0.3)
        s3.start()

    s3.until = 35  # in the middle of the second commit
    thread = threading.Thread(target=start_again)
    thread.start()
    assert len(run(tmp_path, items, place, commit_seconds=0.0, limit=4).mapped) == 4
    thread.join(timeout=1)
    assert not thread.is_alive()
    run(tmp_path, items, place)
    assert store_content(store_path(place, "masks")) == expected


@pytest.mark.promise(AWAY)
def test_a_server_that_stays_away_ends_the_run_and_the_next_one_goes_on(
    s3, place, tmp_path, items, expected, monkeypatch
):
    monkeypatch.setattr(remote, "WAITS", ())
    s3.until = 50  # creation and one commit are through
    with pytest.raises(RemoteError, match="the server does not answer") as caught:
        run(tmp_path, items, place, commit_seconds=0.0)
    assert "run the same command again" in str(caught.value) and "\n" not in str(caught.value)
    s3.start()
    path = store_path(place, "masks")
    kept = set(open_masks(str(path)))
    assert 0 < len(kept) < 12 and verify_store(str(path)).ok
    # Its lock, which it could not delete, is taken since it holds none.
    assert not kept & set(run(tmp_path, items, place).mapped)
    assert store_content(path) == expected


@pytest.mark.promise("A store on S3 has one writer at a time.")
def test_a_second_writer_is_refused_and_the_lock_of_a_dead_one_taken(s3, place):
    path = place / "x.lock"
    first, second = RemoteLock(path), RemoteLock(path)
    first.acquire()
    with pytest.raises(StoreError, match=f"written by process {os.getpid()} on .*delete s3:"):
        second.acquire()
    holder = json.loads(remote.read(path))
    first.release()
    assert not remote.exists(path)
    remote.create(path, json.dumps(holder | {"began": 0.0, "pid": os.getppid()}).encode())
    with pytest.raises(FileExistsError):
        remote.create(path, b"")
    first.acquire()  # the number is that of another process now
    remote.remove(path)
    with pytest.raises(StoreError, match="the lock was deleted or taken"):
        first.check()
    second.acquire()
    with pytest.raises(StoreError, match="by process"):
        first.check()
    remote.write({path: json.dumps(holder | {"host": "elsewhere"}).encode()})
    with pytest.raises(StoreError, match=r"on elsewhere - .*if no run is alive there"):
        first.acquire()


@pytest.mark.promise(
    "Workers of a cluster write shards to S3; the driver puts them in their places and commits."
)
def test_shards_of_workers_are_adopted_at_a_url(s3, place, tmp_path, items, expected):
    mapper, path = CheapMapper("masks"), store_path(place, "masks")
    with MaskStoreWriter(path, mapper.identity) as writer, ThreadPoolExecutor(1) as threads:
        writer.sync_manifest(manifest_of(items))
        writer.plan(items)
        executor = cluster.ClusterExecutor(Here(threads), 4, 1, FileHashes())
        arguments = partial(CheapMapper, "masks"), items, writer
        assert len(list(executor.compute(*arguments, lambda: False))) == 12
        assert executor.parameters["ranges"] == 2
        late = pickle.loads(pickle.dumps(writer))  # of a worker that was thought dead
        late.write_shard([late.prepare(items[0], late_row(mapper, items[0]))], writer.staging())
    assert store_content(path) == expected
    with MaskStoreWriter(path, mapper.identity):
        assert not [file for file in remote.files_in(path) if ".partial" in str(file)]


class Here:
    """A pool of one worker, a thread."""

    died = ()

    def __init__(self, threads):
        self.submit = partial(threads.submit, cluster.run_part)

    def size(self):
        return 1


def late_row(mapper, item):
    return mapper.map([item], [mapper.load(item)])[0]


def test_another_identity_and_force_are_refused_with_the_command_that_deletes(s3, place):
    path = place / "masks.zarr"
    with MaskStoreWriter(path, {"a": 1}) as writer:
        writer.plan([])
    for identity, choice in (({"a": 2}, "rebuild"), ({"a": 1}, "force")):
        writer = MaskStoreWriter(path, identity, on_mismatch=choice)
        with pytest.raises(StoreError, match="aws s3 rm --recursive s3://bucket"), writer:
            pass


@pytest.fixture(scope="module")
def project(s3, tmp_path_factory):
    """A project whose images are in the bucket; those on the disk are gone."""
    made = Project(tmp_path_factory.mktemp("toy"))
    for i in range(4):
        made.add(f"{i}.png", *scene(i, 40 + 3 * i, 56), label="cat" if i % 2 else "dog")
    folder = made.paths.data(DATASET)
    (folder / "masks").rename(folder.with_name("truth"))  # beside the images
    for row in made.rows:
        row["mask_path"] = f"../truth/{row['path']}"
    made.write()
    made.local, url = folder.parent.rename(made.paths.root / "before"), "s3://bucket/images"
    files = [file for file in made.local.rglob("*.png")]
    places = [remote.as_path(url) / file.relative_to(made.local).as_posix() for file in files]
    remote.write({place: file.read_bytes() for place, file in zip(places, files, strict=True)})
    made.paths = Paths(made.paths.root, "s3://bucket/images", "s3://bucket/stores")
    return made


@pytest.mark.promise("`segment` and `encode` read images from S3 and keep their stores there.")
def test_segment_and_encode_with_images_and_stores_at_a_url(
    s3, place, project, tmp_path, monkeypatch
):
    from pipeline.encode.encode import encode_dataset
    from pipeline.segment.segment import segment_dataset
    from tests.encode.conftest import small_clip

    params = project.params(segment__prompt="manifest", encode__views=["whole", "masked"])
    paths, options = project.paths, RunOptions(progress=False, workers=1)
    clip, here = {"clip": small_clip()}, Paths(project.paths.root)
    segment_dataset(DATASET, params, paths, options)
    s3.images.clear()
    assert encode_dataset(DATASET, params, paths, options, **clip).done == 4
    assert s3.images == {f"{i}.png": 1 for i in range(4)}  # each is read once
    s3.images.clear()
    assert encode_dataset(DATASET, params, paths, options, **clip).skipped == 4
    assert not s3.images
    shutil.copytree(project.local, here.data(DATASET).parent)
    segment_dataset(DATASET, params, here, options)
    encode_dataset(DATASET, params, here, options, **clip)
    for name, opened in (("masks", open_masks), ("features", open_features)):
        url, folder = (getattr(of, name)(DATASET) for of in (paths, here))
        there, store = opened(str(url)), opened(folder)
        pd.testing.assert_frame_equal(there.table(), store.table())
        assert there.digest == store.digest and len(there) == 4 and not there.check()
    # No key is in a file of the project or in an object.
    texts = [file.read_bytes() for file in paths.root.rglob("*") if file.is_file()]
    texts += map(remote.read, remote.files_in(remote.as_path("s3://bucket/stores")))
    assert len(texts) > 80 and not [text for text in texts if b"of-nobody" in text.lower()]
    # DVC sees that the images are those of the folder. One that is replaced is seen by its tag.
    digests = [tmp_path / "url.json", tmp_path / "folder.json"]
    for of, out in zip((paths, here), digests, strict=True):
        digest_files(of.manifest(DATASET), of.data(DATASET), out, FileHashes(of.hashes(DATASET)))
    assert digests[0].read_bytes() == digests[1].read_bytes()
    changed = paths.data(DATASET) / "2.png"
    remote.write({changed: (project.local / DATASET / "1.png").read_bytes()})
    with pytest.raises(StageFailed, match=r"2\.png.*its bytes changed since the manifest was made"):
        segment_dataset(DATASET, params, paths, options)
    image = read_image(str(changed))
    assert np.array_equal(image, read_image(project.local / DATASET / "1.png"))
    refreshed = refresh_dataset(DATASET, paths=paths)
    assert (
        refreshed.changed["changed"] == 1 and "2.png" in refreshed.failed
    )  # its mask is another's
    # A server that is away fails no image: it ends the run.
    monkeypatch.setattr(remote, "WAITS", ())
    s3.stop()
    full, lost = project.params(segment__prompt="full"), Paths(paths.root, paths.data_root, "lost")
    with pytest.raises(RemoteError, match="the server does not answer"):
        segment_dataset(DATASET, full, lost, options)
    record = RunRecord.read(paths.record(DATASET, "segment"))
    assert record.status == "error" and not record.failed and "run the same" in record.error


OFTEN = "import pipeline.store.writer as w; w.REMOTE_COMMIT_SECONDS = w.COMMIT_SECONDS = 0.0"


@pytest.mark.promise(
    "`kill -9` of `segment` and `encode` with stores on S3 loses no committed row: the next run "
    "takes the lock, computes what is missing, and ends with the rows of a folder."
)
def test_kill_9_at_random_moments_loses_nothing(s3, place, tmp_path):
    made, moments = Project(tmp_path / "toy"), random.Random(1)
    root = made.paths.root
    for i in range(10):
        made.add(f"{i}.png", scene(i, 40 + 3 * i, 56)[0], label="cat" if i % 2 else "dog")
    write_params(root, segment__prompt="salient", encode__views=["whole", "masked"])

    def begin(stage, url="cache"):
        options = ["--dataset", DATASET, "--batch-size", "2", "--set", f"store_root={url}"]
        environment, log = Site.environment(), tmp_path / "log"
        return warm.start("pipeline", [stage, *options], root, environment, log, OFTEN)

    stages = ("segment", open_masks, Paths.masks), ("encode", open_features, Paths.features)
    for stage, opened, place_of in stages:
        path = place_of(Paths(root, store_root=str(place)), DATASET)
        kept, kills, lock = set(), 0, path.with_name(f"{path.name}.lock")
        until = moments.randrange(55, 80), moments.randrange(2, 20), None
        while True:
            running = begin(stage, place)
            s3.then = running.process.kill
            s3.until = until[kills]  # PUTs: creation takes some 20, each of five commits 18
            code = running.wait()
            s3.start()
            if code == 0:
                break
            kills += 1
            assert code == -signal.SIGKILL and remote.exists(lock), running.output
            if remote.exists(path / "zarr.json"):
                assert kept <= set(opened(path)) and verify_store(path).ok
                kept = set(opened(path))
        assert kills == 2 and 0 < len(kept) < 10 and not remote.exists(lock)
        assert RunRecord.read(made.paths.record(DATASET, stage)).done == 10 - len(kept)
        assert not [file for file in remote.files_in(path) if ".partial" in str(file)]
        assert begin(stage).wait() == 0
        there, here = opened(path), opened(place_of(made.paths, DATASET))
        assert len(there) == 10 and not there.check()
        for name in here:
            for a, b in zip(*(store.read(name).values() for store in (there, here)), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if stage == "encode" else 0)


@pytest.mark.promise("What is wrong with a bucket is said in one line with a remedy.")
def test_what_is_wrong_with_a_bucket_is_said_in_one_line(s3, place, items, tmp_path, monkeypatch):
    def said(call, *arguments):
        with pytest.raises(PipelineError) as caught:
            call(*arguments)
        assert caught.value.remedy and "\n" not in str(caught.value)
        return str(caught.value)

    assert "no store here" in said(open_masks, str(place / "masks.zarr"))
    for call, path in ((open_masks, "s3://nowhere/x.zarr"), (read_image, "s3://nowhere/x.png")):
        assert "no such bucket" in said(call, path)
    assert "no such bucket" in said(run, tmp_path, items, remote.as_path("s3://nowhere/x"))
    assert "does not exist" in said(read_image, str(place / "x.png"))
    assert "no such file" in said(read_text_csv, str(place / "x.csv"))
    remote.write({place / "x.png": b"", place / "x.csv": b"a,b\n1,2\n"})
    assert "is empty" in said(read_image, str(place / "x.png"))
    assert "no column image_id" in said(read_manifest, str(place / "x.csv"))
    s3.denied = True
    for call in (open_masks, read_image):
        assert "the server refuses this (Access Denied)" in said(call, str(place / "x"))
    assert "server refuses" in said(run, tmp_path, items, place)
    assert "Unsupported filesystem" in said(open_masks, "foo://bucket/masks.zarr")
    monkeypatch.setitem(sys.modules, "upath", None)
    assert "pip install 'medfocusclip[s3]'" in said(open_features, "s3://bucket/features.zarr")
