"""The columns that docs/tables.md names, and those of the files it speaks of."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from pipeline import open_features, open_masks
from pipeline.paths import Paths

SECTION = re.compile(r"^#{2,3} (?P<name>\S+)\n(?P<text>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
TYPES = dict.fromkeys(("string", "large_string", "str", "object"), "text")
TYPES |= {"double": "float64", "float": "float32", "dictionary": "category"}


def documented(page: str) -> dict[str, dict[str, str]]:
    """Return file -> column -> type ("" where the page gives none), in the page's order."""
    found: dict[str, dict[str, str]] = {}
    for section in SECTION.finditer(page):
        rows = re.search(
            r"^\| (column|path) \|.*\n\|[-|]+\n(?P<rows>(?:\|.*\n)+)", section["text"], re.M
        )
        if rows is None:
            continue
        typed = rows[1] == "column"
        columns = found.setdefault(section["name"], {})
        for row in rows["rows"].splitlines():
            names, kind = row.split(" | ")[:2]
            for name in re.findall(r"`([^`]+)`", names):
                assert name not in columns, f"{section['name']}: {name} twice"
                columns[name] = kind if typed else ""
    return found


def fits(name: str, column: str) -> bool:
    """Whether a documented name stands for a column: `<...>` is any text."""
    return re.fullmatch(re.sub(r"<[^>]+>", ".+", re.escape(name)), column) is not None


def typed(path: Path) -> dict[str, str]:
    """Return column -> type of a Parquet file or of a store's index."""
    if path.suffix == ".parquet":
        types = {field.name: str(field.type).partition("<")[0] for field in pq.read_schema(path)}
    else:
        opened = open_masks(path) if path.name == "masks.zarr" else open_features(path)
        types = {name: str(of) for name, of in opened.table().reset_index().dtypes.items()}
    return {name: TYPES.get(of, of) for name, of in types.items()}


def table(path: Path) -> dict[str, str]:
    """Return column -> "" of a CSV, whose numbers are text as well."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return dict.fromkeys(next(csv.reader(text.splitlines())), "")


def written(paths: Paths, dataset: str) -> dict[str, dict[str, str]]:
    """Return file -> column -> type of all that a finished dataset has in its cache, and of its
    manifest, named as docs/tables.md does."""
    cache = paths.cache(dataset)
    found = {path.name: typed(path) for path in (*cache.glob("*.parquet"), *cache.glob("*.zarr"))}
    runs = cache.glob("runs/*/*.parquet")
    found |= {f"runs/<learner>/{path.name}": typed(path) for path in runs}
    found |= {f"plots/{path.name}": table(path) for path in paths.plots(dataset).iterdir()}
    metrics = json.loads(paths.metrics(dataset).read_text(encoding="utf-8"))
    found["metrics.json"] = dict.fromkeys(pd.json_normalize(metrics), "")
    return found | {"data_manifests/<dataset>.csv": table(paths.manifest(dataset))}


def differences(page: str, files: dict[str, dict[str, str]]) -> list[str]:
    """Return what the page says otherwise than the files, in words."""
    said = documented(page)
    found = [f"no section on {name}" for name in files if name not in said]
    found += [f"a section on {name}, which is not written" for name in said if name not in files]
    for name in said.keys() & files.keys():
        for column, kind in files[name].items():
            docs = [column] if column in said[name] else [d for d in said[name] if fits(d, column)]
            if len(docs) != 1 or (kind and said[name][docs[0]] != kind):
                found.append(f"{name}: {column} is {kind}, not as documented: {docs}")
        there = [*files[name]]
        found += [f"{name}: no {d}" for d in said[name] if not any(fits(d, c) for c in there)]
    return sorted(found)
