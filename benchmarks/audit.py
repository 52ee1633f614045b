"""How often the leak audit is wrong on real films, and how its cost grows.

    python benchmarks/audit.py rates DATA           # false alarms, recall of known copies
    python benchmarks/audit.py real DATA            # all images as one dataset
    python benchmarks/audit.py made 10000 100000 --planted 0.01

`rates`: pairs of films of different patients that are called copies (lung, where the file name
states the patient), and which pairs of covid_lung_overlap.csv, contrast-changed copies across two
sets, are found. Pairs found that the list does not have are named, to be looked at.
`real` reads every image (13,052 in the four sets) end to end, twice: the second time from the
thumbnail cache. `made` draws thumbnails with a natural 1/f spectrum, plants copies (gamma, moved by
one pixel, turned) and times the search alone. One JSON line per result.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.fft import idctn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.audit import audit_dataset, compare_datasets
from pipeline.audit.search import ORIENTATIONS, find_copies, orient
from pipeline.audit.thumbnails import PLAIN_SIDE, STRUCTURE_SIDE, Thumbnails
from pipeline.config import AuditParams, load_params
from pipeline.intake import add_dataset
from pipeline.io import sha256_file
from pipeline.manifest import read_manifest, write_manifest
from pipeline.paths import Paths
from tests.project import REPO, manifest_of

BLOCK = 2048
PARAMS = REPO / "params.yaml"


class Clock:
    """Wall and CPU seconds since it was made, and the peak memory of the process."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_s": round(time.perf_counter() - self.wall, 1),
            "cpu_s": round(time.process_time() - self.cpu, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def draw(n: int, planted: int, seed: int = 0) -> Thumbnails:
    """Draw n thumbnails, the last `planted` of them copies of the first."""
    rng = np.random.default_rng(seed)
    detail = np.zeros((n, STRUCTURE_SIDE, STRUCTURE_SIDE), np.uint8)
    u = np.hypot(*np.mgrid[:STRUCTURE_SIDE, :STRUCTURE_SIDE]).astype(np.float32)
    originals = n - planted
    for start in range(0, originals, BLOCK):
        size = min(BLOCK, originals - start)
        waves = rng.standard_normal((size, *u.shape), np.float32) / np.maximum(u, 1)
        images = idctn(waves, axes=(1, 2), norm="ortho")
        images -= images.min(axis=(1, 2), keepdims=True)
        detail[start : start + size] = images * (255 / images.max(axis=(1, 2), keepdims=True))
    for k in range(planted):
        image = 255 * (np.roll(detail[k], 1, axis=1) / 255) ** 0.7
        detail[originals + k] = orient(image[None], k % len(ORIENTATIONS))[0]
    plain = detail.reshape(n, PLAIN_SIDE, 2, PLAIN_SIDE, 2).mean(axis=(2, 4)).astype(np.uint8)
    return Thumbnails(plain, detail, np.ones(n, bool), np.arange(n), {})


def made(n: int, share: float, params: AuditParams) -> dict:
    """Search n drawn thumbnails, a share of which are copies."""
    planted = int(n * share)
    thumbnails = draw(n, planted)
    clock = Clock()
    copies, _ = find_copies(thumbnails, None, params)
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
    files = list(files)
    parts = [file.parent.parent.name for file in files]
    columns = {
        "label": [file.parent.name for file in files],
        "split": [part if part in ("train", "test") else "" for part in parts],
        "sha256": [sha256_file(file) for file in files],
    }
    ids = [file.relative_to(data).as_posix() for file in files]
    write_manifest(manifest_of(ids, synthetic="0", **columns), paths.manifest(dataset))
    paths.data(dataset).parent.mkdir(exist_ok=True)
    paths.data(dataset).symlink_to(data.resolve())


def real(data: Path) -> list[dict]:
    """Audit the images of the four sets as one dataset, twice."""
    files = sorted(p for ds in ("brain", "breast", "covid", "lung") for p in (data / ds).rglob("*"))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        list_images([f for f in files if f.is_file()], data, "all", paths)
        params = load_params(PARAMS)
        for _ in range(2):
            clock = Clock()
            summary = audit_dataset("all", params, paths)
            kept = ("images", "thumbnails_read", "test_images_with_copy_in_train", "pairs")
            results.append({key: summary[key] for key in kept} | clock.read())
    return results


def false_alarms(paths: Paths, params) -> dict:
    """Count the pairs of different patients among all that the audit calls copies."""
    audit_dataset("lung", params, paths)
    manifest = read_manifest(paths.manifest("lung")).set_index("image_id")
    pairs = pd.read_parquet(paths.audit_pairs("lung"))
    who = [manifest["patient_id"].loc[pairs[f"image_id_{side}"]].to_numpy() for side in "ab"]
    strangers = pairs[who[0] != who[1]]
    sizes = manifest["patient_id"].value_counts()
    n = len(manifest)
    examined = n * (n - 1) // 2 - int((sizes * (sizes - 1) // 2).sum())
    return {
        "images": n,
        "patients": len(sizes),
        "pairs_of_different_patients": examined,
        "orientations": 8 if params.audit.mirrored else 1,
        "called_copies": len(strangers),
        "of_those_same_bytes": int((strangers["kind"] == "byte").sum()),
        "named": strangers[["image_id_a", "image_id_b", "kind", "score"]].to_dict("records"),
        "pairs_of_one_patient_called_copies": len(pairs) - len(strangers),
    }


def recall(paths: Paths, params, known_pairs: Path) -> dict:
    """Compare what is found across covid and lung with the known pairs."""
    known = pd.read_csv(known_pairs, dtype=str)
    expected = set(zip(known["path"], known["lung_path"], strict=True))
    pairs = compare_datasets("covid", "lung", params, paths)
    found = {
        (f"covid/{a}", f"lung/{b}"): (kind, round(score, 3))
        for a, b, kind, score in pairs[["image_id_a", "image_id_b", "kind", "score"]].to_numpy()
    }
    scores = [score for pair, (_, score) in found.items() if pair in expected]
    return {
        "known": len(expected),
        "found": len(scores),
        "recall": round(len(scores) / len(expected), 4),
        "lowest_score_of_known": min(scores, default=None),
        "pairs_examined": 8 * len(read_manifest(paths.manifest("covid")))
        * len(read_manifest(paths.manifest("lung"))),
        "not_in_the_list": [[*p, *f] for p, f in sorted(found.items()) if p not in expected],
    }  # fmt: skip


def rates(data: Path) -> Iterable[dict]:
    """Measure false alarms and recall on the real films."""
    params = load_params(PARAMS)
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        for name in ("lung", "covid"):
            add_dataset(name, data / name, paths=paths)
        yield false_alarms(paths, params)
        yield recall(paths, params, data / "covid_lung_overlap.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("rates", "real"):
        kinds.add_parser(kind).add_argument("data", type=Path)
    synthetic = kinds.add_parser("made")
    synthetic.add_argument("images", type=int, nargs="+")
    synthetic.add_argument("--planted", type=float, default=0.01, help="share that are copies")
    options = parser.parse_args()
    if options.kind == "rates":
        results = rates(options.data)
    elif options.kind == "real":
        results = real(options.data)
    else:
        results = (made(n, options.planted, AuditParams()) for n in options.images)
    for result in results:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
