"""Published models are fetched whole from a hub, here a server on the loopback address."""

from __future__ import annotations

import hashlib
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.errors import ModelError
from pipeline.models.catalogue import ModelFile, PublishedModel
from pipeline.models.fetch import fetch
from tests.project import REPO, in_process

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()
FETCHED = (
    "A fetched file is moved to its place only when it is whole; an interrupted one continues."
)


class Hub(BaseHTTPRequestHandler):
    """Has BODY under every name but "absent"; hangs up once after `cut` bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, start = self.server, int((self.headers.get("Range") or "=0-").split("=")[1][:-1])
        errors = {"absent": (404, "EntryNotFound"), "closed": (403, "GatedRepo")}
        refused = [error for word, error in errors.items() if word in self.path]
        if start and server.gone:
            refused = [(410, "")]
        status, code = refused[0] if refused else (206 if start else 200, "")
        body = b"" if refused else BODY[start:]
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "ETag": f'"{server.etag}"',
                            "X-Repo-Commit": "c" * 40, "X-Error-Code": code}.items():  # fmt: skip
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            server.starts.append(start)
            cut, server.cut = server.cut, None
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.starts, server.etag, server.cut, server.gone = [], SHA256, None, False
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
    assert hub.starts[0] == 0 and 0 < hub.starts[1] <= 300_000
    (line,) = fetch(model(), tmp_path)
    assert line.endswith("there already, ok, its hash is pinned") and len(hub.starts) == 2
    (line,) = fetch(model("config.json", None), tmp_path)
    assert "recorded" in line
    assert (tmp_path / "checkpoints/m/config.json.sha256").read_text().startswith(SHA256)
    shutil.copy2(REPO / "params.yaml", tmp_path)
    code, said = in_process(tmp_path, "models", "fetch", "pubmedclip")
    assert code == 0 and "pytorch_model.bin: fetched, its hash is recorded" in said
    assert "clip: {name: ViT-B-32-quickgelu, checkpoint: checkpoints/pubmedclip/" in said


@pytest.mark.promise(FETCHED)
def test_a_later_command_continues_what_a_broken_one_left(hub, tmp_path):
    hub.cut, hub.gone = 300_000, True
    assert "run again, which continues" in refusal(model(), tmp_path)
    hub.gone = False
    (line,) = fetch(model(), tmp_path)
    assert line.endswith("fetched, its hash is pinned")
    assert hub.starts[0] == 0 and 0 < hub.starts[1] == hub.starts[-1] <= 300_000


@pytest.mark.promise("Without network, a missing model says what to download and where to put it.")
def test_what_is_not_on_the_hub_is_downloaded_by_hand_after_the_rest(hub, tmp_path):
    weights = ModelFile("checkpoints/m/w.pt", "https://example.org/all.zip", None)
    rest = ModelFile("checkpoints/m/vocab.txt", "org/x", None)
    published = PublishedModel("m", "clip", "MIT", {"name": "m"}, (weights, rest))
    found = fetch(published, tmp_path)
    assert "vocab.txt: fetched" in next(found)
    place = tmp_path / weights.place
    with pytest.raises(ModelError) as caught:
        next(found)
    said = f"download https://example.org/all.zip, take w.pt out of it and put it at {place}"
    assert caught.value.remedy == said and not (tmp_path / "checkpoints/.partial/m").exists()
    place.write_bytes(BODY)
    _, said = fetch(published, tmp_path)
    assert "w.pt: there already, ok, its hash is not pinned, recorded now" in said


@pytest.mark.promise(FETCHED)
def test_other_bytes_than_pinned_or_stated_never_reach_their_place(hub, tmp_path):
    other = model(sha256="0" * 64)
    said = f"the hub has SHA-256 {SHA256}, but {'0' * 64} is pinned"
    assert said in refusal(other, tmp_path)
    hub.etag = "a" * 40  # of a small file
    assert f"has SHA-256 {SHA256}, but" in refusal(other, tmp_path)
    hub.etag = "b" * 64
    assert "other bytes than the hub has" in refusal(model(sha256=None), tmp_path)
    hub.etag = SHA256
    assert "fetched" in next(fetch(model(), tmp_path))


@pytest.mark.promise("Without network, a missing model says what to download and where to put it.")
def test_what_cannot_be_reached_says_what_to_do_in_one_line(hub, tmp_path, monkeypatch):
    said = refusal(model("absent.pt"), tmp_path)
    place = tmp_path / "checkpoints/m/absent.pt"
    assert f"huggingface.co/org/x/resolve/main/absent.pt and put it at {place}" in said
    said = refusal(model(hub="org/closed"), tmp_path)
    assert "accept it at https://huggingface.co/org/closed" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot be fetched (Offline" in refusal(model(), tmp_path)
