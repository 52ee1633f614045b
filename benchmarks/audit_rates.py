"""How often the leak audit is wrong on real films: false alarms, and recall of known copies.

    python benchmarks/audit_rates.py ../shared/data

False alarms: pairs of films of different patients that it calls copies (lung, where the file name
says who it is). Recall: the pairs of covid_lung_overlap.csv, contrast-changed copies across two
sets. Pairs found that the list does not have are named, to be looked at. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd

from pipeline.audit import audit_dataset, compare_datasets
from pipeline.config import load_params
from pipeline.intake import add_dataset
from pipeline.manifest import read_manifest
from pipeline.paths import Paths

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="has lung/, covid/ and covid_lung_overlap.csv")
    data = parser.parse_args().data
    params = load_params(PARAMS)
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        for name in ("lung", "covid"):
            add_dataset(name, data / name, paths=paths)
        print(json.dumps(false_alarms(paths, params)), flush=True)
        print(json.dumps(recall(paths, params, data / "covid_lung_overlap.csv")), flush=True)


if __name__ == "__main__":
    main()
