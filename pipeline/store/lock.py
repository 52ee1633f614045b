"""The lock of a store at a URL: an object that says who writes."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from pipeline import remote
from pipeline.errors import RemoteError, StoreError

_held: set[str] = set()  # tokens of the locks of this process


class RemoteLock:
    """A lock that is taken by creating an object, on the condition that there is none.

    A server that does not know the condition If-None-Match lets two writers through that start in
    the same moment; before each commit a writer looks whether the object is still its own. It is
    not deleted when its process is killed: the next writer on the same machine sees that and takes
    it, one on another machine cannot know.

    Args:
        path: URL of the object.
    """

    def __init__(self, path: Path):
        self.path = path
        self._content: dict[str, Any] = {}

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreError: another process holds it, or held it when it was killed on another machine.
            RemoteError: the server does not answer, or refuses.
        """
        import psutil

        me = {"host": _host(), "pid": os.getpid(), "began": psutil.Process().create_time()}
        me["token"] = uuid4().hex
        holder = self._holder()
        if holder.get("host") == me["host"] and not _runs(holder):
            remote.remove(self.path)
            holder = {}
        if not holder:
            try:
                remote.create(self.path, json.dumps(me).encode())
            except FileExistsError:
                holder = self._holder()
        if holder and holder != me:  # its own, where an answer was lost and the request repeated
            who = f"process {holder.get('pid')} on {holder.get('host')}"
            remedy = f"wait for it to end; if no run is alive there, delete {self.path}"
            raise StoreError(f"the store is being written by {who}", path=self.path, remedy=remedy)
        self._content = me
        _held.add(me["token"])

    def check(self) -> None:
        """Raise StoreError unless this lock is still the one that was taken."""
        if (holder := self._holder()) != self._content:
            message = "the lock was deleted or taken while this process wrote"
            remedy = "see that one run at a time writes; what was committed before is kept"
            if holder:
                message += f", by process {holder.get('pid')} on {holder.get('host')}"
            raise StoreError(message, path=self.path, remedy=remedy)

    def release(self) -> None:
        """Delete the object, if it is this lock's."""
        content, self._content = self._content, {}
        _held.discard(content.get("token"))
        with suppress(RemoteError):  # the error that ends the run is the one to report
            if content and self._holder() == content:
                remote.remove(self.path)

    def _holder(self) -> dict[str, Any]:
        try:
            return dict(json.loads(remote.read(self.path)))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            return {"host": "unknown"}


def _host() -> str:
    """Return the name of this machine, and of its processes' numbers in a container."""
    space = Path("/proc/self/ns/pid")
    return socket.gethostname() + (f" {os.readlink(space)}" if space.exists() else "")


def _runs(holder: dict[str, Any]) -> bool:
    """Return whether the process that a lock of this machine names holds it still."""
    import psutil

    if holder.get("pid") == os.getpid():  # it may have lost the server before it could release
        return holder.get("token") in _held
    with suppress(psutil.Error):
        return abs(psutil.Process(holder["pid"]).create_time() - holder["began"]) < 1
    return False
