"""What a disk refuses, as an error with a remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from pipeline.errors import StoreError

REMEDIES = {
    errno.ENOSPC: "free some space and run again; it goes on from here",
    errno.EDQUOT: "free some of your quota and run again; it goes on from here",
    errno.EFBIG: "raise the file size limit (ulimit -f) and run again",
    errno.EROFS: "the cache folder must be writable",
    errno.EACCES: "the cache folder must be writable; check its owner and mode",
    errno.EPERM: "the cache folder must be writable; check its owner and mode",
}


@contextmanager
def writing(path: str | PathLike) -> Iterator[None]:
    """Turn an `OSError` of the code inside into a `StoreError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            path=path,
            remedy=REMEDIES.get(error.errno, "check the disk and run again"),
        ) from error
