"""The stages beside what people write without them, on the same images with the same weights.

    python -m benchmarks.peers --images 64 --repeats 3 --out peers.csv

Ours and the peer's run in processes of their own, in turn, since a shared machine's speed drifts. A
ratio is the time of the peer over ours (above 1: ours is faster), the median over the turns with
the least and the greatest; CPU seconds are those of all threads and worker processes. Peers that
are not installed are named; `docs/peers.md` says how to get them. Run it on an idle machine.
"""

from __future__ import annotations

import sys

from pipeline.engine.process import keep_freed_memory

if sys.argv[1:2] != ["theirs"]:  # first, as the command does; a peer has no such thing
    keep_freed_memory()

import argparse
import importlib.util
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.peer_tasks import TASKS, prepare


def serve(side: str, folder: Path) -> None:
    """Fork for each task that a line names, so that packages are imported once; the child loads
    its side of the task, runs it once, and then at each further line until an empty one."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # peers print
    while task := sys.stdin.readline().strip():
        if child := os.fork():
            if os.waitpid(child, 0)[1]:
                answers.write("failed\n")
            continue
        call = getattr(TASKS[task], side)(folder)
        np.save(folder / f"{side}.npy", call())
        answers.write("ready\n")
        while sys.stdin.readline().strip():
            start, cpu = time.perf_counter(), cpu_seconds()
            call()
            figures = time.perf_counter() - start, cpu_seconds() - cpu, peak_mib()
            answers.write(json.dumps(figures) + "\n")
        answers.write("ended\n")
        os._exit(0)


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_mib() -> float:
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024


class Server:
    """All of one side, in a process of its own."""

    busy = False

    def __init__(self, side: str, folder: Path):
        command = [sys.executable, "-m", "benchmarks.peers", side, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.log = folder / f"{side}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stderr=log, **pipes)

    def ask(self, line: str) -> str:
        """Send a line and return the answer. RuntimeError: the task failed, and why."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.busy = answer not in ("", "failed\n")
        if not self.busy:
            raise RuntimeError(self.log.read_text().strip().splitlines()[-1])
        return answer

    def end(self) -> None:
        """End the task; without one, the process. Waits for its end: the child could read a line
        that is sent at once."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if self.busy:
            self.process.stdout.readline()
        self.busy = False


def measure(
    name: str, sides: list[Server], folder: Path, images: int, repeats: int
) -> dict[str, Any]:
    """Run both sides once to warm up, then in turn; return a row of the table."""
    task = TASKS[name]
    for side in sides:
        side.ask(name)
    turns = np.array([[json.loads(s.ask("run")) for s in sides] for _ in range(repeats)])
    for side in sides:
        side.end()
    rows = task.rows or images
    row: dict[str, Any] = {"task": task.name, "peer": task.peer, "n": rows}
    for k, unit in enumerate(("wall", "cpu")):
        ratios = sorted(turns[:, 1, k] / turns[:, 0, k])
        ms = 1e3 * np.median(turns[:, :, k], axis=0) / rows
        row |= {f"{unit}_ms": ms[0], f"peer_{unit}_ms": ms[1], f"{unit}_ratio": median(ratios)}
        row |= {f"{unit}_least": ratios[0], f"{unit}_most": ratios[-1]}
    row |= {"peak_mib": turns[-1, 0, 2], "peer_peak_mib": turns[-1, 1, 2]}
    found = [np.load(folder / f"{side}.npy") for side in ("ours", "theirs")]
    return row | {"agree": task.agree(*found, folder)}


def line(row: dict[str, Any]) -> str:
    """Return a row of the table in Markdown."""
    ratios = [
        f"{row[f'{k}_ratio']:.2f} [{row[f'{k}_least']:.2f}, {row[f'{k}_most']:.2f}]"
        for k in ("wall", "cpu")
    ]
    ms = (f"{row[f'{side}{k}_ms']:.3g}" for k in ("wall", "cpu") for side in ("", "peer_"))
    memory = f"{row['peak_mib']:.0f}, {row['peer_peak_mib']:.0f}"
    cells = row["task"], row["peer"], ", ".join(ms), *ratios, memory, row["agree"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", type=int, default=320, help="of an image, pixels")
    parser.add_argument("--sam2", default="sam2-micro", help="another one has random weights")
    parser.add_argument("--data", type=Path, help="the four sets, whose films the audit compares")
    parser.add_argument("--out", type=Path, help="CSV")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    here = [k for k in args.tasks if not (m := TASKS[k].needs) or importlib.util.find_spec(m)]
    if not args.data:
        here = [k for k in here if k != "audit"]
    rows = []
    print("| task | peer | ms: wall ours, peer, CPU ours, peer | wall | CPU | peak MiB | agree |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), here, args.images, args.side, args.sam2, args.data)
        sides = [Server(side, Path(folder)) for side in ("ours", "theirs")]
        for name in here:
            try:
                rows.append(measure(name, sides, Path(folder), args.images, args.repeats))
            except RuntimeError as error:
                print(f"{TASKS[name].peer}: {error}", file=sys.stderr, flush=True)
                [side.end() for side in sides if side.busy]
                continue
            print(line(rows[-1]), flush=True)
            if args.out:
                pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4g")
        for side in sides:
            side.end()
    for name in set(args.tasks) - set(here):
        print(f"not installed: {TASKS[name].peer}, see docs/peers.md", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        serve(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
