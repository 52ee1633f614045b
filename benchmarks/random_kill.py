"""kill -9 at random moments of both stages; the finished store must equal an undisturbed one.

    python benchmarks/random_kill.py --kills 100

After every kill the store must open (or not exist yet) and hold no damaged row; the next run
goes on from there. The model is replaced by a cheap function, so that most of the time is spent
where a kill could hurt: in the writes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from pipeline.stores import FeatureStore, MaskStore, open_features, open_masks, verify_store


@dataclass
class Outcome:
    """What `random_kills` saw.

    Args:
        kind: which store.
        kills: processes killed while at work.
        rounds: stores that were finished (and equal to the undisturbed one).
        rows: rows a store.
        rows_computed: rows that the last run of each round computed; the rest survived kills.
        slowest_restart: seconds of the slowest whole run after a kill.
        faults: what went wrong, in words; empty is the promise.
    """

    kind: str
    kills: int = 0
    rounds: int = 0
    rows: int = 0
    rows_computed: int = 0
    slowest_restart: float = 0.0
    faults: list[str] | None = None


def content(kind: str, folder: Path) -> dict[str, tuple]:
    """Return everything a reader gets of a store: id -> bytes and index values."""
    path = store_path(folder, kind)
    store: MaskStore | FeatureStore = open_masks(path) if kind == "masks" else open_features(path)
    table = store.table()
    rows = {}
    for image_id in store:
        data = store.read(image_id)
        arrays = tuple((n, a.dtype.str, a.shape, a.tobytes()) for n, a in sorted(data.items()))
        rows[image_id] = (arrays, table.loc[image_id].to_json())
    if isinstance(store, FeatureStore):
        rows["text"] = (store.text_features.values.tobytes(), store.classes, store.templates)
    return rows


def _work(kind: str, folder: str, rows: int) -> None:
    path = Path(folder)
    run_cheap(kind, path, make_items(path, rows), commit_seconds=0.0, batch_size=3, verify=False)


def random_kills(kind: str, folder: Path, *, kills: int, rows: int = 40, seed: int = 0) -> Outcome:
    """Kill writers of one store `kills` times and compare what they leave.

    Args:
        kind: "masks" or "features".
        folder: an empty folder to work in.
        kills: how many.
        rows: images a store.
        seed: of the moments.
    """
    moments = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.cheap_stage"])
    calm, rough = folder / "calm", folder / "rough"
    begin = time.monotonic()
    _work(kind, str(calm), rows)
    expected, length = content(kind, calm), time.monotonic() - begin
    outcome = Outcome(kind, rows=rows, faults=[])
    path = store_path(rough, kind)
    while outcome.kills < kills:
        begin = time.monotonic()
        worker = context.Process(target=_work, args=(kind, str(rough), rows))
        worker.start()
        worker.join(moments.uniform(0.0, length))
        if worker.is_alive():
            worker.kill()
            worker.join()
            outcome.kills += 1
            if (path / "zarr.json").exists():
                report = verify_store(path)
                if not report.ok:
                    outcome.faults.append(f"after kill {outcome.kills}: {report.summary()}")
            if outcome.kills < kills:
                continue
            worker = context.Process(target=_work, args=(kind, str(rough), rows))
            begin = time.monotonic()
            worker.start()
            worker.join()
        outcome.slowest_restart = max(outcome.slowest_restart, time.monotonic() - begin)
        if worker.exitcode != 0:
            outcome.faults.append(f"a run ended with exit code {worker.exitcode}")
        elif content(kind, rough) != expected:
            outcome.faults.append(f"round {outcome.rounds}: differs from the undisturbed store")
        outcome.rounds += 1
        record = json.loads((rough / f"{kind}.json").read_text())
        outcome.rows_computed += record["done"]
        shutil.rmtree(path)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    good = True
    for kind in ("masks", "features"):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            outcome = random_kills(kind, Path(folder), kills=a.kills, rows=a.rows, seed=a.seed)
            print(json.dumps({**asdict(outcome), "seconds": round(time.monotonic() - begin, 1)}))
            good = good and not outcome.faults
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
