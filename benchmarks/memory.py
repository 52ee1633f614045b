"""Peak memory of a stage against the number of images: it must not grow.

    python benchmarks/memory.py                                # segment, encode: 200 and 2000
    python benchmarks/memory.py --cheap --images 2000 4000     # no model: reading ahead and writing

Each figure is the peak resident size of a process of its own: the stage's own command on phantoms,
or with `--cheap` the engine and the stores without a model, on rows of 512 x 512 pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real_stage import DATASET, RealStage
from tests.site import REPO

CHILD = """
import resource, sys
{run}
try:
    main({arguments})
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
REAL = CHILD.format(run="from pipeline.cli import main", arguments="")
CHEAP = CHILD.format(run="from benchmarks.cheap_stage import main", arguments="sys.argv[1:]")
SIDE = 512


def real_peaks(images: int) -> dict[str, float]:
    """Peak MiB of `pipeline segment` and `pipeline encode` over so many phantoms."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        site = RealStage("segment", Path(folder), images).site
        for stage in ("segment", "encode"):
            peaks[stage] = peak(site.root, REAL, stage, "--dataset", DATASET)
    return peaks


def cheap_peaks(rows: int) -> dict[str, float]:
    """Peak MiB of the engine and the stores over so many rows, without a model."""
    peaks = {}
    for kind in ("masks", "features"):
        with tempfile.TemporaryDirectory() as folder:
            options = [kind, folder, "--rows", str(rows), "--size", str(SIDE)]
            peaks[kind] = peak(REPO, CHEAP, *options)
    return peaks


def peak(root: Path, code: str, *arguments: str) -> float:
    """Peak MiB of a new process that runs Python code in a folder."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stderr.split("PEAK")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=(200, 2000))
    parser.add_argument("--cheap", action="store_true", help="without a model")
    a = parser.parse_args()
    measure: Callable[[int], dict[str, float]] = cheap_peaks if a.cheap else real_peaks
    for images in a.images:
        for stage, peak in measure(images).items():
            print(
                json.dumps({"stage": stage, "images": images, "peak_mib": round(peak)}), flush=True
            )


if __name__ == "__main__":
    main()
