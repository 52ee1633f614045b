"""How the leak audit scales: time, memory, and what it finds.

    python benchmarks/audit_scale.py real ../shared/data            # all images as one dataset
    python benchmarks/audit_scale.py made 10000 100000 --planted 0.01
    python benchmarks/audit_scale.py made 100000 --index

`real` reads every image (13,052 in the four sets) end to end, twice: the second time from the
thumbnail cache. `made` draws thumbnails with a natural 1/f spectrum, plants copies (gamma, moved by
one pixel, turned), and times the search alone: n images cost no disk.
One JSON line per run: wall and CPU seconds, peak memory, recall of what was planted, false pairs.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from scipy.fft import idctn

from pipeline.audit import audit_dataset
from pipeline.audit.copies import find_copies
from pipeline.audit.descriptors import ORIENTATIONS, PLAIN_SIDE, STRUCTURE_SIDE, orient
from pipeline.audit.thumbnails import RECORD, Thumbnails
from pipeline.config import AuditParams, load_params
from pipeline.io import sha256_file
from pipeline.manifest import COLUMNS, write_manifest
from pipeline.paths import Paths

BLOCK = 2048


class Clock:
    """Wall and CPU seconds since it was made, and the peak memory of the process.

    `peak_mb` counts mapped files, which the system can drop; `own_mb` (sampled) does not.
    """

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        self.own, self._done = 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            memory = psutil.Process().memory_info()
            self.own = max(self.own, (memory.rss - memory.shared) / 2**20)

    def read(self) -> dict[str, float]:
        self._done.set()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "own_mb": round(self.own),
            "wall_s": round(time.perf_counter() - self.wall, 1),
            "cpu_s": round(time.process_time() - self.cpu, 1),
            "peak_mb": round(peak),
        }


def draw(n: int, planted: int, file: Path, seed: int = 0) -> Thumbnails:
    """Draw n thumbnails into a mapped file, the last `planted` of them copies of the first."""
    rng = np.random.default_rng(seed)
    records = np.lib.format.open_memmap(file, mode="w+", dtype=RECORD, shape=(n,))
    u = np.hypot(*np.mgrid[:STRUCTURE_SIDE, :STRUCTURE_SIDE]).astype(np.float32)
    spectrum = 1 / np.maximum(u, 1)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        waves = rng.standard_normal((size, STRUCTURE_SIDE, STRUCTURE_SIDE), np.float32) * spectrum
        images = idctn(waves, axes=(1, 2), norm="ortho")
        images -= images.min(axis=(1, 2), keepdims=True)
        images *= 255 / images.max(axis=(1, 2), keepdims=True)
        at = np.arange(start, start + size)
        for k in np.flatnonzero(at >= n - planted):
            source = at[k] - (n - planted)
            image = np.roll(records["structure"][source], 1, axis=1) / 255
            images[k] = orient(255 * image[None] ** 0.7, source % len(ORIENTATIONS))[0]
        records["structure"][at] = images.astype(np.uint8)
        halves = images.reshape(size, PLAIN_SIDE, 2, PLAIN_SIDE, 2).mean(axis=(2, 4))
        records["plain"][at] = halves.astype(np.uint8)
    return Thumbnails(records, np.arange(n), np.arange(n))


def made(n: int, share: float, index: bool | None, params: AuditParams) -> dict:
    planted = int(n * share)
    with tempfile.TemporaryDirectory() as folder:
        thumbnails = draw(n, planted, Path(folder) / "thumbnails.npy")
        clock = Clock()
        copies = find_copies(thumbnails, None, params, index=index)
        spent = clock.read()
    true = (copies.right - copies.left) == n - planted
    return {
        "images": n,
        "planted": planted,
        "found": int(true.sum()),
        "false": int((~true).sum()),
        **spent,
    }


def list_images(files: Iterable[Path], data: Path, dataset: str, paths: Paths) -> None:
    """Make image files `[split/]class/image` below `data` a dataset of a project.

    They are hashed and not measured: the audit asks for no sizes.
    """
    rows = []
    for file in files:
        name = file.relative_to(data).as_posix()
        split = file.parent.parent.name
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "image_id": name,
                "path": name,
                "frame": 0,
                "label": file.parent.name,
                "split": split if split in ("train", "test") else "",
                "sha256": sha256_file(file),
                "width": 1,
                "height": 1,
                "synthetic": "0",
            }
        )
    write_manifest(pd.DataFrame(rows), paths.manifest(dataset))
    paths.data(dataset).parent.mkdir(exist_ok=True)
    paths.data(dataset).symlink_to(data.resolve())


def real(data: Path) -> list[dict]:
    files = sorted(p for ds in ("brain", "breast", "covid", "lung") for p in (data / ds).rglob("*"))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        list_images([f for f in files if f.is_file()], data, "all", paths)
        params = load_params(Path(__file__).resolve().parent.parent / "params.yaml")
        for _ in range(2):
            clock = Clock()
            summary = audit_dataset("all", params, paths)
            kept = ("images", "thumbnails_read", "test_images_with_copy_in_train", "pairs")
            results.append({key: summary[key] for key in kept} | clock.read())
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("real").add_argument("data", type=Path)
    synthetic = kinds.add_parser("made")
    synthetic.add_argument("images", type=int, nargs="+")
    synthetic.add_argument("--planted", type=float, default=0.01, help="share that are copies")
    synthetic.add_argument("--index", action=argparse.BooleanOptionalAction, default=None)
    options = parser.parse_args()
    if options.kind == "real":
        for result in real(options.data):
            print(json.dumps(result), flush=True)
    else:
        for n in options.images:
            print(json.dumps(made(n, options.planted, options.index, AuditParams())), flush=True)


if __name__ == "__main__":
    main()
