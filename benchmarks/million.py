"""A dataset of so many synthetic rows: seconds, files and peak memory of every stage.

    python benchmarks/million.py --rows 1000000 --folder ../million        # all steps
    python benchmarks/million.py --rows 1000000 --folder ../million train  # some, of those before

Each step is a process of its own, whose CPU seconds and peak resident memory (`getrusage`, pages of
mapped files included) are printed as JSON. What is measured is the driver, the manifest, the index
and the stores. Made up are:

- the images: few files under many names (hard links), whose digests are in the cache of hashes;
- what SAM2 and CLIP return: small boxes, and one view of `--dim` numbers with a class mean;
- the thumbnails of the audit, which are noise. Of more than `WHOLE` rows the search compares twice
  `SEARCHED` with all others, and the hours of the whole search are extrapolated from these.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

NAME, CLASSES, SIDE, LINKS = "synthetic", ("a", "b", "c", "d"), 64, 50_000
WHOLE, SEARCHED = 100_000, 512
FACTS: dict[str, Any] = {}
"""What a step has measured, beside its time and memory."""


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the seconds of a block to the facts."""
    begin = time.perf_counter()
    yield
    FACTS[name] = round(time.perf_counter() - begin, 3)


def make(rows: int, learner: str) -> None:
    """Write the project, the names of the images, the manifest and the cache of hashes."""
    import numpy as np
    import yaml

    from pipeline.manifest import write_manifest
    from pipeline.paths import Paths
    from tests.project import manifest_of
    from tests.site import Site

    Site.create(Path())
    params = yaml.safe_load((REPO / "params.yaml").read_text())
    params |= {"datasets": [NAME], "learners": {learner: {"c_steps": 3}}}
    params["encode"]["views"] = ["whole"]
    params["splits"] |= {"fractions": [1.0], "shots": {}}
    params["train"] = {"seeds": [0], "views": {"official": ["whole"]}}
    run = {"learner": learner, "view": "whole"}
    params["study"] = {"baseline": run, "runs": [{"name": "Whole image", **run}]}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    paths, k = Paths(), np.arange(rows)
    ids = [f"{n % 1000:03d}/{n:07d}.png" for n in k.tolist()]
    digests = [sha256(image_id.encode()).hexdigest() for image_id in ids]
    columns = {"sha256": digests, "width": SIDE, "height": SIDE}
    columns |= {"label": [CLASSES[n % 4] for n in k]}
    columns |= {"split": ["test" if n % 5 == 0 else "train" for n in k // 20]}
    columns |= {"patient_id": [f"p{n}" for n in k // 20]}
    write_manifest(manifest_of(ids, **columns), paths.manifest(NAME))

    data, known = paths.data(NAME).resolve(), {}
    for n in range(min(rows, 1000)):
        (data / f"{n:03d}").mkdir(parents=True)
    for n, image_id in enumerate(ids):
        file = data / f"{n // LINKS}.png"
        file.exists() or file.write_bytes(b"an image")
        os.link(file, data / image_id)
    for image_id, digest in zip(ids, digests, strict=True):
        status = os.stat(data / image_id)
        times = status.st_mtime_ns, status.st_ctime_ns
        known[str(data / image_id)] = [status.st_ino, status.st_size, *times, digest]
    paths.cache(NAME).mkdir(parents=True)
    paths.hashes(NAME).write_text(json.dumps(known))


def thumbnails() -> None:
    """Write the audit's cache of thumbnails."""
    import numpy as np

    from pipeline.audit.thumbnails import PLAIN_SIDE, STRUCTURE_SIDE
    from pipeline.images import reader_rules
    from pipeline.io import sha256_json
    from pipeline.manifest import read_manifest
    from pipeline.paths import Paths

    paths, rules = Paths(), sha256_json(reader_rules(None))
    digests = read_manifest(paths.manifest(NAME))["sha256"]
    keys = sorted(sha256(f"{digest} 0 {rules}".encode()).hexdigest() for digest in digests)
    rows = len(keys)
    rng, sides = np.random.default_rng(0), {"plain": PLAIN_SIDE, "structure": STRUCTURE_SIDE}
    with zipfile.ZipFile(paths.thumbnails(NAME), "w") as archive:
        with archive.open("keys.npy", "w") as file:
            np.lib.format.write_array(file, np.array(keys, "S64"))
        for name, side in sides.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                about = {"descr": "|u1", "fortran_order": False, "shape": (rows, side, side)}
                np.lib.format.write_array_header_1_0(file, about)
                for at in range(0, rows, 1000):
                    file.write(rng.bytes(min(1000, rows - at) * side * side))


def files() -> None:
    """DVC's stage `files`."""
    from stages.files import run

    run(NAME)


def project() -> tuple:
    """Return the parameters, the paths and the options of a run."""
    from pipeline.config import load_params
    from pipeline.engine.options import RunOptions
    from pipeline.paths import Paths

    options = RunOptions(progress=False, workers=1, batch_size=256)
    return load_params("params.yaml"), Paths(), options


class Made:
    """A mapper whose rows are made up; `row` returns that of an item."""

    device = ""

    def __init__(self, stage: str, row: Callable[[Any, int], Any]):
        self.identity, self.row = {"stage": stage, "model": None, "texts": False}, row

    def load(self, item: Any) -> int:
        return int(item.row["sha256"][:12], 16)

    def map(self, items: list, loaded: list[int]) -> list:
        return [self.row(item, seed) for item, seed in zip(items, loaded, strict=True)]


def segment() -> None:
    """What `pipeline segment` does, with boxes for masks; run again it finds nothing to do."""
    import numpy as np

    from pipeline.engine.run import image_items, run_stage
    from pipeline.io import FileHashes
    from pipeline.manifest import read_manifest
    from pipeline.store import MaskRow, MaskStoreWriter

    params, paths, options = project()
    with timed("manifest_s"):
        manifest = read_manifest(paths.manifest(NAME))
    hashes = FileHashes(paths.hashes(NAME))
    with timed("items_s"):
        items = image_items(manifest, paths.data(NAME), hashes=hashes)

    def box(item: Any, seed: int) -> MaskRow:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[seed % 20 : 20 + seed % 37, seed % 16 : 17 + seed % 43] = True
        return MaskRow(item.image_id, mask, prompt="made up", components=1)

    with MaskStoreWriter(paths.masks(NAME), Made("segment", box).identity) as writer:
        writer.sync_manifest(manifest)
        record = run_stage(
            "segment", NAME, params, paths, options, items, Made("segment", box), writer, hashes
        )
    FACTS.update(done=record.done, **{f"{k}_s": round(v, 1) for k, v in record.seconds.items()})


def encode(dim: int) -> None:
    """What `pipeline encode` does, with class means and noise for features."""
    import numpy as np

    from pipeline.encode.encode import encode_items
    from pipeline.engine.run import run_stage
    from pipeline.io import FileHashes
    from pipeline.manifest import read_manifest
    from pipeline.store import FeatureRow, FeatureStoreWriter, open_masks

    params, paths, options = project()
    manifest, hashes = read_manifest(paths.manifest(NAME)), FileHashes(paths.hashes(NAME))
    masks, data = open_masks(paths.masks(NAME)), paths.data(NAME)
    items = encode_items(manifest, data, masks, params.encode.views, hashes)
    means = np.random.default_rng(0).normal(size=(len(CLASSES), dim)).astype(np.float32) / 4

    def features(item: Any, seed: int) -> FeatureRow:
        x = np.random.default_rng(seed).standard_normal((1, dim), np.float32)
        x += means[CLASSES.index(item.row["label"])]
        mask = item.row["mask"]
        return FeatureRow(item.image_id, x, mask_status=mask["status"], mask_crc=mask["crc"])

    mapper = Made("encode", features)
    where = paths.features(NAME), mapper.identity
    with FeatureStoreWriter(*where, views=["whole"], dim=dim) as writer:
        writer.sync_manifest(manifest)
        record = run_stage("encode", NAME, params, paths, options, items, mapper, writer, hashes)
    FACTS.update(done=record.done, **{f"{k}_s": round(v, 1) for k, v in record.seconds.items()})


def store(rows: int) -> None:
    """A store of so many rows of 16 numbers, by its writer alone: no manifest and no driver."""
    import numpy as np

    from pipeline.store import FeatureRow, FeatureStoreWriter, WorkItem, open_features

    x, given = np.arange(16, dtype=np.float32)[None], {"label": "a", "split": "train"}
    where = Path("small/features.zarr"), {"made": "up", "texts": False}
    with FeatureStoreWriter(*where, views=["whole"], dim=16, commit_seconds=60) as writer:
        writer.expected = lambda items: rows  # as a manifest would say
        writer.plan([])
        for n in range(rows):
            digest = sha256(b"%d" % n).hexdigest()
            name = f"{n % 1000:03d}/{n:07d}.png"
            item = WorkItem(name, digest, Path(), 0, {**given, "sha256": digest})
            writer.put([writer.prepare(item, FeatureRow(name, x * n))])
    with FeatureStoreWriter(*where, views=["whole"], dim=16) as writer:
        begin = time.process_time()
        writer.write([item], [FeatureRow(name, x)])
        writer.commit()
        FACTS["commit_cpu_s"] = round(time.process_time() - begin, 2)
    begin = time.process_time()
    _ = open_features(where[0]).digest
    FACTS["digest_cpu_s"] = round(time.process_time() - begin, 2)


def read(kind: str, folder: str = "") -> None:
    """Open a store, and read 200 rows at random."""
    import random

    from pipeline import store
    from pipeline.paths import Paths

    path = Path(folder, f"{kind}.zarr") if folder else getattr(Paths(), kind)(NAME)
    begin = time.process_time()
    with timed("open_s"):
        opened = getattr(store, f"open_{kind}")(path)
    FACTS["open_cpu_s"] = round(time.process_time() - begin, 3)
    names = list(opened)
    with timed("first_row_s"):
        opened.read(names[0])
    took = []
    for name in random.Random(0).sample(names, min(200, len(names))):
        begin = time.perf_counter()
        opened.read(name)
        took.append(1000 * (time.perf_counter() - begin))
    took.sort()
    FACTS.update(row_ms=round(took[len(took) // 2], 2), slowest_row_ms=round(took[-1], 2))
    FACTS["files"] = sum(file.is_file() for file in opened.path.rglob("*"))


def audit(rows: int) -> None:
    """`pipeline audit`, whose search is cut short where it takes hours."""
    from itertools import islice

    from pipeline.audit import audit_dataset, search

    params, paths, _ = project()
    if rows <= WHOLE:
        audit_dataset(NAME, params, paths)
        return
    whole, search.ROWS, search.BLOCKS = search._search, SEARCHED, 1

    def few(given: tuple, left: Any, *of: Any) -> Iterator:
        found = whole(given, left, *of)
        with timed("prepared_s"):
            first = next(found)
        with timed("one_block_s"):
            more = list(islice(found, 1))
        blocks = len(left) / SEARCHED
        FACTS["whole_search_h"] = round(FACTS["one_block_s"] * blocks / 2 / 3600, 2)
        return [first, *more]

    search._search = few
    audit_dataset(NAME, params, paths)


def split() -> None:
    """The plan of the splits, as `train` makes it."""
    from pipeline.splits import load_split_plan

    params, paths, _ = project()
    plan = load_split_plan(NAME, params, paths)
    for fraction in params.splits.fractions:
        found = plan.get("official", 0, fraction)
    FACTS.update({part: len(ids) for part, ids in vars(found).items()})


def train(learner: str) -> None:
    """`pipeline train` of a learner, in this process."""
    from pipeline.learners.train import train_dataset

    params, paths, _ = project()
    (record,) = train_dataset(NAME, params, paths, [learner])
    FACTS.update({f"{k}_s": round(v, 1) for k, v in record.seconds.items()})


def evaluate() -> None:
    """`pipeline evaluate`."""
    from pipeline.evaluate import evaluate_dataset

    params, paths, _ = project()
    evaluate_dataset(NAME, params, paths)


def report() -> None:
    """`pipeline report`."""
    from pipeline.report.build import build_report

    params, paths, _ = project()
    FACTS["mb"] = round(build_report(params, paths).stat().st_size / 1e6, 1)


def dvc() -> None:
    """Seconds of `dvc status`, with everything committed, by hard links."""

    def run(*arguments: str) -> None:
        subprocess.run(["dvc", *arguments], check=True, stdout=subprocess.DEVNULL)

    run("config", "cache.type", "hardlink")
    with timed("commit_s"):
        for stage in ("audit", "segment", "encode", "evaluate"):
            run("commit", "-f", f"{stage}@{NAME}")
        run("commit", "-f", f"stages/dvc.yaml:files@{NAME}")
    for name in ("first_status_s", "status_s"):
        with timed(name):
            run("status")
    FACTS["files"] = sum(file.is_file() for file in Path("cache").rglob("*"))


STEPS: dict[str, Callable] = {
    "make": make,
    "files": files,
    "segment": segment,
    "again": segment,
    "encode": encode,
    "masks": lambda: read("masks"),
    "features": lambda: read("features"),
    "store": store,
    "small": lambda: read("features", "small"),
    "thumbnails": thumbnails,
    "audit": audit,
    "split": split,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "dvc": dvc,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", help=f"default: {' '.join(STEPS)}")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512, help="Length of a feature.")
    parser.add_argument("--learner", default="linear-probe")
    parser.add_argument("--folder", type=Path, required=True, help="Of the project.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    if a.child:
        os.chdir(a.folder)
        begin, (step,) = time.perf_counter(), a.steps
        given = {"make": (a.rows, a.learner), "encode": (a.dim,), "store": (a.rows,)}
        given |= {"train": (a.learner,), "audit": (a.rows,)}
        STEPS[step](*given.get(step, ()))
        used = resource.getrusage(resource.RUSAGE_SELF)
        measured = {
            "step": step,
            "rows": a.rows,
            "seconds": round(time.perf_counter() - begin, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "peak_mib": round(used.ru_maxrss / 1024),
        }
        print(json.dumps(measured | FACTS), flush=True)
    # Little is loaded here: the peak of a process that starts another one counts as the other's.
    for step in [] if a.child else a.steps or STEPS:
        own = ["--rows", a.rows, "--dim", a.dim, "--learner", a.learner, "--folder", a.folder]
        subprocess.run([sys.executable, __file__, step, "--child", *map(str, own)])


if __name__ == "__main__":
    main()
