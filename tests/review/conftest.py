"""A project of eight scenes with masks, and the real server in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.engine.options import RunOptions
from pipeline.segment.segment import segment_dataset
from tests import warm
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene, trained

QUIET = RunOptions(progress=False, workers=1)
SERVE = """
import sys, torch
from pathlib import Path
from pipeline.cli.common import guarded
from pipeline.review.server import review_dataset
from tests.project import Project
from tests.segment.small_sam2 import untrained
torch.set_num_threads(1)
sam2 = untrained()
sam2.model.load_state_dict(torch.load("weights.pt"))
project = Project(Path())
say = lambda text: print(text, flush=True)
guarded(lambda standalone_mode: review_dataset(
    "toy", project.params(), project.paths, order="random", predictor=sam2, say=say) and None)
"""


class Served:
    """A running server; `url` is the address of its page."""

    def __init__(self, running: warm.Running):
        self.running = running
        said = re.compile(r"(http://127\.0\.0\.1:(\d+)/)\?token=(\S+)")
        assert self.running.until(lambda: said.search(self.running.output)), self.running.output
        self.base, self.port, self.token = said.search(self.running.output).groups()
        self.url = f"{self.base}?token={self.token}"

    def call(self, path: str, body: object = None, *, headers: dict | None = None, token=None):
        """Return status and JSON (or bytes) of a request."""
        mark = "&" if "?" in path else "?"
        url = f"{self.base}{path}{mark}token={self.token if token is None else token}"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            text, status = error.read(), error.code
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def end(self, number: int) -> int:
        if self.running.process.is_alive():
            os.kill(self.running.pid, number)
        return self.running.wait()


def png(mask: np.ndarray) -> str:
    """A mask as the page sends it."""
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("RGBA").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory) -> SimpleNamespace:
    """The project, and a function that starts a server, with nothing reviewed unless `again`."""
    import torch

    made, sam2 = Project(tmp_path_factory.mktemp("review")), trained(steps=40)
    for i in range(8):
        image, region = scene(i, 64, 80, ellipse=i > 0)
        made.add(f"<b>{i}'é.png", image, region, label=("cat", "dog")[i % 2])
    torch.save(sam2.model.state_dict(), made.paths.root / "weights.pt")
    params = made.params(segment__prompt="salient", segment__max_failed=1.0)
    segment_dataset(DATASET, params, made.paths, QUIET, predictor=sam2)
    started: list[Served] = []

    def serve(*, again: bool = False) -> Served:
        for one in started:  # a dataset has one server
            one.end(signal.SIGKILL)
        if not again:
            shutil.rmtree(made.paths.reviewed(DATASET), ignore_errors=True)
        log = made.paths.root / "server.log"
        log.unlink(missing_ok=True)
        running = warm.start("", (), made.paths.root, os.environ, log, SERVE)
        started.append(Served(running))
        return started[-1]

    yield SimpleNamespace(project=made, serve=serve, params=made.params())
    for one in started:
        one.end(signal.SIGKILL)
