"""Fetch the files of a published model from the hub, whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DiskError, ModelError
from pipeline.io import sha256_file, writing
from pipeline.models.catalogue import ModelFile, PublishedModel, human

HASH = 64
"""Digits of a SHA-256, by which the hub names large files; small ones have a shorter name."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def fetch(model: PublishedModel, root: Path) -> Iterator[str]:
    """Fetch what a project lacks of a model; yield a line about each file.

    A file is downloaded into checkpoints/.partial, where the next call continues an interrupted
    download, and moved to its place once its hash is the right one.

    Raises:
        ModelError: a file cannot be reached or is not on the hub (those come last), with where to
            download it and where to put it; its hash is not the pinned one, nor that of the first
            fetch, nor what the hub states; or a file that is there already is not whole.
        DiskError: it does not fit on the disk.
    """
    for client in ("httpx", "httpx2"):  # of huggingface_hub: a line for each request
        logging.getLogger(client).setLevel(logging.WARNING)
    partial = root / "checkpoints" / ".partial" / model.name
    again = f"run `pipeline models fetch {model.name}` again"
    for file in sorted(model.files, key=lambda file: file.elsewhere):
        if file.elsewhere and file.state(root) == "missing":
            shutil.rmtree(partial, ignore_errors=True)
            message = "is not on the hub"
            raise ModelError(message, path=root / file.place, remedy=file.by_hand(root))
        if file.state(root) == "missing":
            path = _download(file, root, partial)
            try:
                file.check(root, again, path)
            except ModelError:
                path.unlink()
                raise
            with writing(root / file.place):
                (root / file.place).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, root / file.place)
            yield f"{file.place}: fetched, its hash is {file.wanted(root)[1]}"
        else:
            yield f"{file.place}: there already, {file.check(root, again)}"
    shutil.rmtree(partial, ignore_errors=True)


def _download(file: ModelFile, root: Path, partial: Path) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import GatedRepoError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    at = {"repo_id": file.hub, "filename": file.name, "revision": file.revision}
    url = hf_hub_url(**at, endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        stated = get_hf_file_metadata(url)
        with writing(root / file.place):
            partial.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(partial).free
        if (stated.size or 0) > free:
            message = f"needs {human(stated.size)}, and {human(free)} are free"
            raise DiskError(message, path=root / file.place, remedy="free some space")
        wanted, who = file.wanted(root)
        if wanted and len(stated.etag or "") == HASH and stated.etag != wanted:
            message = f"the hub has SHA-256 {stated.etag}, but {wanted} is {who}: another version"
            remedy = "if you want it, fetch it by hand and state its sha256 in params.yaml"
            raise ModelError(message, path=file.url, remedy=remedy)
        # `hf_hub_download` begins again in each process; bytes of another version are left alone.
        path = partial / f"{file.name}.{''.join(filter(str.isalnum, stated.etag or ''))}"
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a range of its bytes
        with path.open("ab") as part:
            given = {"headers": headers, "expected_size": stated.size}
            http_get(url, part, resume_size=part.tell(), **given)
    except (DiskError, ModelError):
        raise
    except GatedRepoError:
        message = "is given only to accounts that have accepted its licence"
        remedy = f"accept it at https://huggingface.co/{file.hub}, run `hf auth login`, then again"
        raise ModelError(message, path=file.url, remedy=remedy) from None
    except Exception as error:  # of huggingface_hub and the network, by what is wrong
        with writing(root / file.place):
            if isinstance(error, OSError) and error.errno in DISK:
                raise
        message = f"cannot be fetched ({type(error).__name__})"
        remedy = f"run again, which continues; without network {file.by_hand(root)}"
        raise ModelError(message, path=file.url, remedy=remedy) from None
    if wanted is None and len(stated.etag or "") == HASH and sha256_file(path) != stated.etag:
        path.unlink()
        message = "arrived with other bytes than the hub has"
        raise ModelError(message, path=file.url, remedy="run again")
    return path
