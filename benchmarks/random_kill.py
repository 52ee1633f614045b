"""kill -9 at random moments of each stage; what is there in the end must equal undisturbed work.

    python benchmarks/random_kill.py --kills 100
    python benchmarks/random_kill.py --kills 100 --stages segment encode audit prompt_quality \
        train evaluate report
    python benchmarks/random_kill.py --kills 15 --stages segment encode --s3

After every kill a store must open (or not exist yet), hold no damaged row, and show columns of one
moment to a plain xarray reader, and each file must be a whole one; the next run goes on from there.
Every other round redoes what is finished. In the first form the model is a cheap function, so that
most of the time is spent where a kill could hurt: in the writes. The second kills the real commands
at their work, the third with stores on an S3 server of this process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import operator
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cheap_stage import make_items, run_cheap, store_path
from benchmarks.real_stage import FILES, STORES, FileStage, RealStage
from benchmarks.store_stage import StoreStage
from tests.warm import LIBRARIES


@dataclass
class Outcome:
    """What `random_kills` saw.

    Args:
        kind: which store or stage.
        kills: processes killed while at work.
        rounds: times that the work was finished (and equal to the undisturbed one).
        rows: rows a store, or files.
        rows_computed: rows that the last run of each first round computed; the rest survived kills.
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


class CheapStage(StoreStage):
    """A stage without a model, in a process of its own.

    Args:
        kind: "masks" or "features".
        folder: an empty folder.
        rows: images a store.
    """

    def __init__(self, kind: str, folder: Path, rows: int):
        self.name, self.folder, self.rows = kind, folder, rows
        self.store = store_path(folder, kind)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(LIBRARIES.split())  # one server per process

    def start(self, *, redo: bool = False) -> multiprocessing.process.BaseProcess:
        """Start the stage; `redo` computes again what is there."""
        worker = self._context.Process(
            target=_work, args=(self.name, str(self.folder), self.rows, redo)
        )
        worker.start()
        return worker

    def computed(self) -> int:
        """Return how many rows the last run computed."""
        return json.loads((self.folder / f"{self.name}.json").read_text())["done"]


def _work(kind: str, folder: str, rows: int, redo: bool) -> None:
    path, options = Path(folder), {"commit_seconds": 0.0, "batch_size": 3}
    run_cheap(kind, path, make_items(path, rows), force=redo, **options)


def make_stage(kind: str, folder: Path, rows: int, url: str) -> CheapStage | RealStage | FileStage:
    """Return a stage with nothing done; see `random_kills`."""
    if kind in FILES:
        return FileStage(kind, folder)
    return RealStage(kind, folder, rows, url) if kind in STORES else CheapStage(kind, folder, rows)


def random_kills(
    kind: str, folder: Path, *, kills: int, rows: int = 40, seed: int = 0, url: str = ""
) -> Outcome:
    """Kill a stage `kills` times and compare what it leaves.

    Args:
        kind: "masks" or "features" of the cheap stage, or a stage of the command line.
        folder: an empty folder to work in.
        kills: how many.
        rows: images a store; stages of `FILES` have a project of 32 images.
        seed: of the moments.
        url: where "segment" and "encode" keep their stores; default: in the folder.
    """
    stage = make_stage(kind, folder / "stage", rows, url)
    moments = random.Random(seed)
    worker = stage.start()
    begin = time.monotonic()
    worker.join()
    expected, length = stage.content(), time.monotonic() - begin
    stage.clear()
    outcome = Outcome(kind, rows=stage.rows, faults=[])
    while outcome.kills < kills:
        redo = outcome.rounds % 2 == 1 and not stage.url  # there --force is refused
        begin = time.monotonic()
        worker = stage.start(redo=redo)
        worker.join(moments.uniform(0.0, length))
        if worker.is_alive():
            worker.kill()
            worker.join()
            outcome.kills += 1
            outcome.faults += [f"after kill {outcome.kills}: {f}" for f in stage.faults()]
            if outcome.kills < kills:
                continue
            begin = time.monotonic()
            worker = stage.start(redo=redo)
            worker.join()
        outcome.slowest_restart = max(outcome.slowest_restart, time.monotonic() - begin)
        if worker.exitcode != 0:
            outcome.faults.append(f"a run ended with exit code {worker.exitcode}")
        elif not getattr(stage, "same", operator.eq)(expected, stage.content()):
            outcome.faults.append(f"round {outcome.rounds}: differs from the undisturbed work")
        outcome.rounds += 1
        if not redo:
            outcome.rows_computed += stage.computed()
        if redo or stage.url:
            stage.clear()
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    kinds = ["masks", "features", *STORES, *FILES]
    parser.add_argument("--stages", nargs="+", choices=kinds, default=kinds[:2])
    parser.add_argument("--s3", action="store_true", help="stores of segment and encode on S3")
    a = parser.parse_args()
    good, options = True, {"kills": a.kills, "rows": a.rows, "seed": a.seed}
    if a.s3:
        from tests.s3 import S3

        S3.with_bucket()
    for kind in a.stages:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            url = f"s3://bucket/{kind}" if a.s3 else ""
            outcome = random_kills(kind, Path(folder), url=url, **options)
            print(json.dumps({**asdict(outcome), "seconds": round(time.monotonic() - begin, 1)}))
            good = good and not outcome.faults
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
