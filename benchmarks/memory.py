"""Peak memory of a stage against the number of images: it must not grow.

    python benchmarks/memory.py --rows 200 2000 --size 512

Each figure is the peak resident size of a process of its own. The model is the cheap one: what is
measured is loading ahead, buffering and writing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CHILD = """
import resource, sys
from benchmarks.cheap_stage import main
try:
    main(sys.argv[1:])
finally:
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak_mib(kind: str, rows: int, size: int) -> float:
    """Return the peak resident size in MiB of one run over `rows` images of size x size."""
    with tempfile.TemporaryDirectory() as folder:
        options = [kind, folder, "--rows", str(rows), "--size", str(size)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *options], cwd=REPO, capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stderr.split("PEAK")[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=(200, 2000))
    parser.add_argument("--size", type=int, default=512)
    a = parser.parse_args()
    for kind in ("masks", "features"):
        few, many = (peak_mib(kind, rows, a.size) for rows in a.rows)
        figures = {f"{rows} images": round(p) for rows, p in zip(a.rows, (few, many), strict=True)}
        print(json.dumps({"kind": kind, "size": a.size, "peak_mib": figures}))


if __name__ == "__main__":
    main()
