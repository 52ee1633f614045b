"""An S3 server on the loopback address, which keeps its objects when it is stopped and started."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import ThreadedWSGIServer


class Quiet(MotoRequestHandler):
    """Handles a request without a line on stderr."""

    def log(self, *_: Any) -> None: ...


class Server(ThreadedWSGIServer):
    """One run of the server. `close` cuts the connections that are open, as a kill would."""

    daemon_threads = True

    def __init__(self, port: int, app: Any):
        super().__init__("127.0.0.1", port, app, handler=Quiet)
        self.open: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def process_request(self, request: Any, address: Any) -> None:
        self.open.append(request)
        super().process_request(request, address)

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, address: Any) -> None:
        """Say nothing of connections that were cut."""


class S3:
    """The server and what it was asked: `asked` counts requests by method, `images` those
    for images by name. It does `then` (by default it stops) after `until` further requests of
    the method `counted`, and answers as if no key had any right while `denied`."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.asked: Counter[str] = Counter()
        self.images: Counter[str] = Counter()
        self.until: int | None = None
        self.counted, self.then = "PUT", self.stop
        self.denied = False
        self.server: Server | None = Server(0, self._answer)
        self.port = self.server.port

    def _answer(self, environ: dict, start: Any) -> Any:
        method = environ["REQUEST_METHOD"]
        if self.until is not None and method == self.counted:
            left = self.until = self.until - 1
            if left == -1:
                threading.Thread(target=self.then).start()
            if left < 0:
                raise ConnectionError
        self.asked[method] += 1
        if environ["PATH_INFO"].endswith(".png"):
            self.images[environ["PATH_INFO"].rsplit("/", 1)[-1]] += 1
        if self.denied:
            start("403 FORBIDDEN", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        return self.app(environ, start)

    def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.close()

    def start(self) -> None:
        self.until, self.counted, self.then = None, "PUT", self.stop
        if self.server is None:
            self.server = Server(self.port, self._answer)

    @classmethod
    def with_bucket(cls) -> S3:
        """Return a server with a bucket called "bucket", to which this process's
        environment leads."""
        from s3fs import S3FileSystem

        server = cls()
        os.environ.update(server.environment)
        os.environ.pop("AWS_PROFILE", None)
        S3FileSystem.clear_instance_cache()  # those made so far lead to another server
        S3FileSystem().makedirs("bucket", exist_ok=True)  # moto keeps it for the whole process
        return server

    @property
    def environment(self) -> dict[str, str]:
        """Where the libraries look for an address and credentials."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIA-OF-NOBODY",
            "AWS_SECRET_ACCESS_KEY": "secret-of-nobody",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
