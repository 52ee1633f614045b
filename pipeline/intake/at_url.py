"""Copies of what is at a URL: `pipeline data add` reads a copy as it reads any folder.

They lie in data/.fetched, each at the place of its URL (s3/bucket/images/brain), so that names
relative to a folder or to the one above mean the same as there.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pipeline import remote
from pipeline.engine.progress import show_progress
from pipeline.errors import ManifestError, RemoteError, shown
from pipeline.io import ProcessLock, writing
from pipeline.paths import Paths

TABLES = (".csv", ".tsv", ".txt")
THREADS = 16
CHUNK = 64 << 20  # bytes of an object that are in memory at a time


def fetch(url: str | os.PathLike, paths: Paths, *, beside: bool = False) -> Path:
    """Bring the copy of a folder or file at a URL up to date, and return its place; a path is
    returned as it is.

    An object is fetched again only where the size, tag or time that the server states has changed,
    or the copy; also after a kill. What is gone at the URL is removed from the copy of a folder.
    With `beside` all that is in the folder of a table is fetched, since it names files there.

    Raises:
        ManifestError: there is nothing, a name cannot be that of a file here, or no room.
        RemoteError: the server does not answer or refuses, or an object changes meanwhile.
        StoreError: another process is fetching.
        DiskError: a file cannot be written.
    """
    if not remote.is_url(url):
        return Path(url)
    source = remote.as_path(url)
    found = remote.tree(source)
    if beside and "" in found and source.suffix.lower() in TABLES:
        return fetch(source.parent, paths) / source.name
    if not found:
        raise ManifestError("nothing is there", path=url, remedy="check the URL")
    _check_names(found, source)
    copy, top = paths.fetched(source), paths.fetched()
    with ProcessLock(top / "fetch.lock", "fetched copy"), writing(copy):
        for left in top.glob("*.partial"):
            left.unlink()
        if "" not in found:
            _remove_others(copy, found)
        known = _known(top / "objects.jsonl")
        todo = [n for n in found if known.get(str(source / n)) != [found[n], _state(copy / n)]]
        size, free = sum(found[n][0] for n in todo), shutil.disk_usage(top).free
        if size > free:
            what = f"needs {size:,} bytes, {free:,} are free"
            raise ManifestError(what, path=url, remedy=f"make room at {top}")

        def get(name: str) -> None:
            file, partial = copy / name, top / f"{threading.get_ident()}.partial"
            file.parent.mkdir(parents=True, exist_ok=True)
            _download(source / name, found[name], partial)
            os.replace(partial, file)
            entry = [str(source / name), found[name], _state(file)]
            journal.write(f"\n{json.dumps(entry)}".encode())  # whole, or cut by a kill

        shown_as, rest = f"fetch {url}", len(found) - len(todo)
        with (
            open(top / "objects.jsonl", "ab", buffering=0) as journal,
            ThreadPoolExecutor(THREADS) as pool,
            show_progress(shown_as, len(todo), reused=rest, unit="files") as progress,
        ):
            for _ in pool.map(get, todo):
                progress(1, 0)
    return copy


def _download(source: Path, version: list, file: Path) -> None:
    size = version[0]
    with suppress(FileNotFoundError), open(file, "wb") as out:
        for start in range(0, size, CHUNK):
            part = (start, min(start + CHUNK, size)) if size > CHUNK else ()
            out.write(remote.read(source, *part))
        same = size <= CHUNK or remote.version(source)[:2] == version[:2]  # size and tag
        if same and out.tell() == size:
            return
    remedy = "run the same command again when nobody writes there"
    raise RemoteError("was changed while it was fetched", path=source, remedy=remedy)


def _state(file: Path) -> list[int]:
    """Return size and time of a copy; [] = there is none."""
    with suppress(OSError):
        return [file.stat().st_size, file.stat().st_mtime_ns]
    return []


def _known(journal: Path) -> dict[str, list]:
    """Return URL -> version of the object and state of the copy when it was fetched last."""
    known = {}
    with suppress(FileNotFoundError), open(journal, "rb") as file:
        for line in file:
            with suppress(ValueError):  # cut by a kill
                name, *known[name] = json.loads(line)
    return known


def _check_names(found: dict[str, list], source: Path) -> None:
    top = source.path.strip("/")
    wrong = [n for n in found if {"", ".", ".."} & {*f"{top}/{n}".rstrip("/").split("/")}]
    folders = {str(folder) for name in found for folder in PurePosixPath(name).parents}
    if wrong := wrong + sorted(folders & found.keys()):
        what = f"{len(wrong)} names cannot be those of files: {shown(map(repr, wrong))}"
        remedy = "rename them (an empty part, '..', or a file that is a folder too)"
        raise ManifestError(what, path=source, remedy=remedy)


def _remove_others(copy: Path, found: dict[str, list]) -> None:
    for path in sorted(copy.rglob("*"), reverse=True):  # what is in a folder, then the folder
        if path.is_dir():
            with suppress(OSError):  # it holds files
                path.rmdir()
        elif path.relative_to(copy).as_posix() not in found:
            path.unlink()
