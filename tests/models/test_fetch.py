"""Published models are fetched whole from a hub, here a server on the loopback address."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.errors import ModelError
from pipeline.models.catalogue import ModelFile, PublishedModel
from pipeline.models.fetch import fetch

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
FETCHED = (
    "A fetched file is moved to its place only when it is whole; an interrupted one continues."
)


class Hub(BaseHTTPRequestHandler):
    """Serves BODY under every name but "absent"; `cut` is after how many bytes it hangs up."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, head: bool = False) -> None:
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Range")))
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        status = (
            404
            if "absent" in self.path
            else 403
            if "closed" in self.path
            else 206
            if start
            else 200
        )
        body = BODY[start:] if status < 300 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{server.etag}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        if status == 403:
            self.send_header("X-Error-Code", "GatedRepo")
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if not head:
            self.wfile.write(body[: server.cut])
            if server.cut is not None and server.cut < len(body):
                server.cut = None
                self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.etag, server.cut = [], SHA256, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what a break may lose
    yield server
    server.shutdown()


def model(name: str = "w.pt", sha256: str | None = SHA256, hub: str = "org/x") -> PublishedModel:
    file = ModelFile(f"checkpoints/m/{name}", hub, None, sha256, len(BODY) if sha256 else None)
    return PublishedModel("m", "clip", "MIT", {"name": "m"}, (file,))


def refusal(published: PublishedModel, root: Path) -> str:
    with pytest.raises(ModelError) as caught:
        list(fetch(published, root))
    assert not (root / published.files[0].place).exists() and caught.value.remedy
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.promise(FETCHED)
def test_a_file_is_fetched_once_and_continues_where_the_connection_broke(hub, tmp_path):
    hub.cut = 300_000
    (line,) = fetch(model(), tmp_path)
    assert line == "checkpoints/m/w.pt: fetched, its hash is pinned"
    path = tmp_path / "checkpoints/m/w.pt"
    assert path.read_bytes() == BODY and not (tmp_path / "checkpoints/.partial/m").exists()
    ranges = [asked for method, _, asked in hub.asked if method == "GET"]
    assert ranges[0] is None and 0 < int(ranges[-1][6:-1]) <= 300_000
    asked = len(hub.asked)
    (line,) = fetch(model(), tmp_path)
    assert line.endswith("there already, ok, its hash is pinned") and len(hub.asked) == asked
    (line,) = fetch(model("config.json", None), tmp_path)
    assert "recorded" in line
    assert (tmp_path / "checkpoints/m/config.json.sha256").read_text().startswith(SHA256)


@pytest.mark.promise(FETCHED)
def test_other_bytes_than_pinned_or_stated_never_reach_their_place(hub, tmp_path):
    assert f"the hub has SHA-256 {SHA256}, but {'0' * 64} is pinned" in refusal(
        model(sha256="0" * 64), tmp_path
    )
    hub.etag = "a" * 40  # of a small file
    assert f"has SHA-256 {SHA256}, but" in refusal(model(sha256="0" * 64), tmp_path)
    hub.etag = "b" * 64
    assert "other bytes than the hub has" in refusal(model(sha256=None), tmp_path)
    hub.etag = SHA256
    assert "fetched" in next(fetch(model(), tmp_path))


@pytest.mark.promise("Without network, a missing model says what to download and where to put it.")
def test_what_cannot_be_reached_says_what_to_do_in_one_line(hub, tmp_path, monkeypatch):
    said = refusal(model("absent.pt"), tmp_path)
    place = tmp_path / "checkpoints/m/absent.pt"
    assert f"huggingface.co/org/x/resolve/main/absent.pt and put it at {place}" in said
    assert "accept it at https://huggingface.co/org/closed" in refusal(
        model(hub="org/closed"), tmp_path
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot be fetched (Offline" in refusal(model(), tmp_path)
