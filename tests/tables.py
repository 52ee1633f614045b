"""The columns that docs/tables.md names, and those of the files it speaks of."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import open_features, open_masks
from pipeline.paths import Paths

SECTION = re.compile(r"^#{2,3} (?P<name>\S+)\n(?P<text>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
TYPES = {"string": "text", "large_string": "text", "double": "float64", "float": "float32"}


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


def named(column: str) -> re.Pattern[str]:
    """Return what a documented name stands for: `<...>` is any text."""
    return re.compile(re.sub(r"<[^>]+>", ".+", re.escape(column)))


def parquet(path: Path) -> dict[str, str]:
    """Return column -> type of a Parquet file."""

    def kind(of: pa.DataType) -> str:
        return "category" if pa.types.is_dictionary(of) else TYPES.get(str(of), str(of))

    return {field.name: kind(field.type) for field in pq.read_schema(path)}


def store(path: Path) -> dict[str, str]:
    """Return column -> type of a store's index."""
    opened = open_masks(path) if path.name == "masks.zarr" else open_features(path)
    types = opened.table().reset_index().dtypes
    return {name: "text" if str(t) in ("str", "object") else str(t) for name, t in types.items()}


def table(path: Path) -> dict[str, str]:
    """Return column -> "" of a CSV, whose numbers are text as well."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return dict.fromkeys(next(csv.reader(text.splitlines())), "")


def leaves(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every figure in a JSON file."""
    if not isinstance(value, dict):
        yield path
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{path}.{key}" if path else key)


def written(paths: Paths, dataset: str) -> dict[str, dict[str, str]]:
    """Return file -> column -> type of all that a finished dataset has in its cache, and of its
    manifest, named as docs/tables.md does."""
    cache = paths.cache(dataset)
    found = {path.name: parquet(path) for path in cache.glob("*.parquet")}
    runs = cache.glob("runs/*/*.parquet")
    found |= {f"runs/<learner>/{path.name}": parquet(path) for path in runs}
    found |= {f"plots/{path.name}": table(path) for path in paths.plots(dataset).iterdir()}
    found |= {path.name: store(path) for path in cache.glob("*.zarr")}
    metrics = json.loads(paths.metrics(dataset).read_text(encoding="utf-8"))
    found["metrics.json"] = dict.fromkeys(leaves(metrics), "")
    return found | {"data_manifests/<dataset>.csv": table(paths.manifest(dataset))}


def differences(page: str, files: dict[str, dict[str, str]]) -> list[str]:
    """Return what the page says otherwise than the files, in words."""
    said = documented(page)
    found = [f"no section on {name}" for name in files if name not in said]
    found += [f"a section on {name}, which is not written" for name in said if name not in files]
    for name in said.keys() & files.keys():
        stands: dict[str, int] = dict.fromkeys(said[name], 0)
        for column, kind in files[name].items():
            fits = [doc for doc in said[name] if named(doc).fullmatch(column)]
            fits = [column] if column in fits else fits
            if len(fits) != 1:
                found.append(f"{name}: {column} is documented {len(fits)} times")
                continue
            stands[fits[0]] += 1
            if kind and said[name][fits[0]] != kind:
                found.append(f"{name}: {column} is {kind}, not {said[name][fits[0]]}")
        found += [f"{name}: there is no {doc}" for doc, count in stands.items() if not count]
    return sorted(found)
