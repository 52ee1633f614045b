"""Files at a URL that fsspec knows, such as s3://bucket/folder or gs://bucket/folder.

A path is a `upath.UPath`, which has the methods of `pathlib.Path`. Credentials and the address of
the server are found by the library of the protocol where it always looks (environment, ~/.aws, the
role of the machine): nothing here takes, prints or stores them.

An object is written whole, in one request, so a reader sees the old one or the new one. A request
that is not answered is repeated after `WAITS` seconds, besides what the library itself repeats.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from errno import EEXIST, EINVAL
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline.errors import RemoteError

WAITS = (0.5, 2.0, 8.0, 20.0)
KEPT_BYTES = 64 << 20  # the largest file that `keep` keeps
OPTIONS = {"use_listings_cache": False}  # else what other processes write is not seen
# One request for a file of any size; by default s3fs asks for its size first.
PROTOCOL_OPTIONS = {"s3": {"max_concurrency": 1}}


def is_url(path: str | PathLike) -> bool:
    """Return whether a path is a URL, or was made of one by `as_path`."""
    return "://" in str(path)


def as_path(path: str | PathLike) -> Path:
    """Return a path as `pathlib.Path`, or a URL as the object of the same methods."""
    if not is_url(path):
        return Path(path)
    if not isinstance(path, str):
        return path
    if re.match(r"[^/]+://[^/]*:[^/]*@", path):
        remedy = "give them where its library looks, such as the environment"
        raise RemoteError("a URL holds a user and a password", remedy=remedy)
    try:
        from upath import UPath
    except ImportError as error:
        raise _not_installed(path, error) from None
    protocol = path.partition("://")[0]
    try:
        return UPath(path, **OPTIONS, **PROTOCOL_OPTIONS.get(protocol, {}))
    except ValueError as error:
        raise RemoteError(_short(error), path=path, remedy="use s3://, gs:// or a path") from None


def join(folder: Path, name: str) -> Path:
    """Return the path of a file relative to a folder, which may start with ".." or be absolute."""
    if not is_url(folder):
        return folder / name
    return as_path(name) if is_url(name) or name.startswith("/") else (folder / name).resolve()


def ask(path: Path, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the file system of a URL; its first argument is the path there.

    Raises:
        FileNotFoundError, FileExistsError: there is no such object, or there is one.
        OSError: the request is not valid for this object, such as a range behind its end.
        RemoteError: no answer after several tries, no right or no credentials, no such bucket, or
            the library of the protocol is not installed.
    """
    import fsspec

    for wait in (*WAITS, None):
        try:
            # Found anew, since file systems of fsspec do not outlive a fork.
            system = fsspec.filesystem(path.protocol, **path.storage_options)
            return getattr(system, method)(*arguments or [path.path], **options)
        except (FileNotFoundError, FileExistsError) as error:
            if "bucket does not exist" in str(error):
                remedy = "create it, or correct the URL (data_root, store_root)"
                raise RemoteError("there is no such bucket", path=path, remedy=remedy) from None
            raise
        except (TypeError, AttributeError, NotImplementedError):  # not of the server
            raise
        except PermissionError as error:
            message = f"the server refuses this ({_short(error)})"
            remedy = "use credentials that may read, write, list and delete here, or another bucket"
            raise RemoteError(message, path=path, remedy=remedy) from None
        except ImportError as error:
            raise _not_installed(path, error) from None
        except Exception as error:
            if "Credentials" in type(error).__name__:
                remedy = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                message = f"no credentials for this ({_short(error)})"
                raise RemoteError(message, path=path, remedy=remedy) from None
            if isinstance(error, OSError) and error.errno == EINVAL:
                if any(word in str(error).lower() for word in ("range", "condition")):
                    raise
                message = f"the server refuses this ({_short(error)})"
                remedy = "correct the URL, or the region (AWS_DEFAULT_REGION)"
                raise RemoteError(message, path=path, remedy=remedy) from None
            if wait is None:
                message = f"the server does not answer ({type(error).__name__}: {_short(error)})"
                remedy = "run the same command again when it does; what was committed is kept"
                raise RemoteError(message, path=path, remedy=remedy) from error
            time.sleep(wait)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _not_installed(path: str | PathLike, error: ImportError) -> RemoteError:
    remedy = "pip install 'medfocusclip[s3]', for gs:// gcsfs as well, here and on all workers"
    return RemoteError(f"needs a package ({_short(error)})", path=path, remedy=remedy)


def read(path: Path, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of an object, or those from `start` (negative: from its end) to `end`."""
    return ask(path, "cat_file", path.path, start=start, end=end)


def write(files: Mapping[Path, bytes]) -> None:
    """Write objects of one bucket, several at a time; each is the old or the new one."""
    for path in list(files)[:1]:
        ask(path, "pipe", {file.path: content for file, content in files.items()})


def create(path: Path, content: bytes) -> None:
    """Write an object that is not there; FileExistsError if it is, on servers that know the
    condition If-None-Match."""
    try:
        ask(path, "pipe_file", path.path, content, mode="create")
    except OSError as error:  # not all servers say which condition did not hold
        raise FileExistsError(EEXIST, str(error), str(path)) from None


def exists(path: Path) -> bool:
    """Return whether there is a file or folder, at a URL or here."""
    if not is_url(path):
        return path.exists()
    with suppress(FileNotFoundError):
        return bool(ask(path, "info"))
    return False


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder, at a URL or here, sorted."""
    if not is_url(folder):
        return sorted(file for file in folder.rglob("*") if file.is_file())
    return [folder / name for name in tree(folder) if name]


def move(file: Path, final: Path) -> None:
    """Copy an object on the server, then delete it."""
    ask(file, "cp_file", file.path, final.path)
    remove(file)


def remove(file: Path) -> None:
    """Delete a file, at a URL or here, if it is there."""
    with suppress(FileNotFoundError):
        ask(file, "rm_file") if is_url(file) else file.unlink()


def remove_folder(folder: Path) -> None:
    """Delete a folder, at a URL or here, if it is there."""
    if not is_url(folder):
        return shutil.rmtree(folder, ignore_errors=True)
    for file in files_in(folder):
        remove(file)


def new_folder(parent: Path, prefix: str = "") -> Path:
    """Return a new folder below another one, at a URL or here, whose name nobody else has."""
    if not is_url(parent):
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    return parent / f"{prefix}{uuid4().hex}"


def tree(folder: Path) -> dict[str, list]:
    """Return name -> version (as of `versions`) of all objects below a folder; of an object,
    that of itself by the name "". {}: there is nothing."""
    root = folder.path.rstrip("/")
    found = ask(folder, "find", folder.path, detail=True)
    # A key that ends in "/" only marks a folder.
    return {name[len(root) + 1 :]: _version(of) for name, of in found.items() if name[-1] != "/"}


def versions(folder: Path) -> dict[str, list]:
    """Return name -> what tells the versions of each object in a folder apart: size, times and the
    server's own tag. One request for 1,000 objects."""
    listed = ask(folder, "ls", folder.path, detail=True)
    return {one["name"].rsplit("/", 1)[-1]: _version(one) for one in listed}


def version(file: Path) -> list:
    """Return what `versions` does for one object."""
    return _version(ask(file, "info"))


def _version(info: Mapping[str, Any]) -> list:
    tags = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")
    return [info["size"], *(str(info[tag]) for tag in tags if tag in info)]


_kept = threading.local()


def keep(path: Path, content: bytes) -> None:
    """Keep the bytes of a file for the next `take` in this thread: who checks the hash of an image
    and then decodes it asks the server once."""
    _kept.file = (str(path), content) if len(content) <= KEPT_BYTES else ("", b"")


def take(path: Path) -> bytes:
    """Return the bytes that were kept of a file and forget them, or read it."""
    (name, content), _kept.file = getattr(_kept, "file", ("", b"")), ("", b"")
    return content if name == str(path) else read(path)
