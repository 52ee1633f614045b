"""The server of the page: on the loopback address only, for those who have the token.

A page of another site can send requests to 127.0.0.1, and can name it by a host of its own (DNS
rebinding): so every request must carry the token and name this host, and its origin must be this
page. Errors are JSON {"error": one line with the remedy}.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import hmac
import io
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import jinja2
import numpy as np
import uvicorn
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from pipeline.config import Params
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, DiskError, ImageError, PipelineError
from pipeline.images import read_image
from pipeline.images.read import bytes_changed, image_bytes
from pipeline.io import ProcessLock
from pipeline.manifest import row_file
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.review.edits import JUDGED, STATES, Edit, Edits, Stale
from pipeline.review.prompted import Prompted
from pipeline.review.variant import write_variant
from pipeline.review.worklist import ORDERS, Worklist
from pipeline.segment.embeddings import same_embeddings, stored_embedding
from pipeline.segment.segment import load_predictor

MAX_BODY = 8 << 20  # bytes; the mask of a photograph of 100 megapixels is smaller
HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page.html.j2")
SAFE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; img-src blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'"
)


class Refused(PipelineError):
    """A request that cannot be answered; `status` is that of HTTP."""

    def __init__(
        self, message: str, remedy: str = "", status: int = 400, *, path: Path | None = None
    ):
        super().__init__(message, remedy=remedy, path=path)
        self.status = status


class Ask(BaseModel, extra="forbid"):
    """A prompt on an image as it was shown: a box x0, y0, x1, y1 or [], and clicks, in pixels."""

    id: str
    sha256: str
    box: list[FiniteFloat] = []
    points: list[tuple[FiniteFloat, FiniteFloat, Literal[0, 1]]] = Field([], max_length=100)

    def check(self, width: int, height: int) -> None:
        """Raise Refused unless the prompt lies inside an image of this size."""
        where, x = f"the image, {width} x {height} pixels", self.box
        if x and not (len(x) == 4 and 0 <= x[0] < x[2] <= width and 0 <= x[1] < x[3] <= height):
            shown = ",".join(f"{v:g}" for v in x[:5])
            raise Refused(f"box {shown}: not x0,y0,x1,y1 inside {where}", "draw it again")
        for x0, y0, _ in self.points:
            if not (0 <= x0 <= width and 0 <= y0 <= height):
                raise Refused(f"click {x0:g},{y0:g}: not inside {where}", "click on the image")


class Save(Ask):
    """An edit: the version that the page has seen, and the mask as PNG in base64."""

    version: int
    state: Literal[STATES]
    painted: bool = False
    mask: str = ""


class Review:
    """What the page can ask for. Safe in threads; parameters as for `review_dataset`."""

    def __init__(
        self, dataset: str, params: Params, paths: Paths, order: str, predictor: Sam2ImagePredictor
    ):
        self.dataset, self.params, self.paths, self.order = dataset, params, paths, order
        self.edits = Edits(paths.reviewed(dataset))
        self._work = Worklist(dataset, params, paths, self.edits)
        self.sam2 = Prompted(predictor, params.segment.box_as_mask, self.read)
        self.embeddings = same_embeddings(dataset, paths, predictor, params.images.shown)
        self._lock, self._read = threading.RLock(), (None, np.empty(0))

    @property
    def work(self) -> Worklist:
        """The images of the manifest as it is now."""
        with self._lock:
            if self._work.outdated:
                self._work = Worklist(self.dataset, self.params, self.paths, self.edits)
            return self._work

    def row(self, image_id: str, sha256: str | None = None) -> dict:
        """Return the row of an image; Refused if there is none, or it has other bytes by now than
        those that the page has shown."""
        work = self.work
        if image_id not in work.at:
            message = f"no image {image_id!r} in the manifest"
            raise Refused(message, "it may have been changed; reload the list (L)", 404)
        row = work.frame.iloc[work.at[image_id]].to_dict()
        if sha256 not in (None, row["sha256"]):
            raise Stale(f"{image_id!r} is another image by now", remedy="load it again (R)")
        return row

    def image(self, row: dict) -> np.ndarray:
        """Return an image, uint8 (h, w, 3); ImageError if it cannot be read, or is not the one of
        the manifest."""
        key, (last, image) = (row["sha256"], row["frame"]), self._read
        if key != last:
            path = row_file(row, self.paths.data(self.dataset))
            try:
                data = image_bytes(path)
            except OSError as error:
                remedy = "restore it and load it again (R)"
                raise ImageError(error.strerror or "gone", path=path, remedy=remedy) from None
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise bytes_changed(path)
            image = read_image(path, row["frame"], data=data, window=self.params.images.shown)
            self._read = key, image
        return image

    def read(self, row: dict) -> tuple[np.ndarray, list[Tensor] | None]:
        """Return an image, as `image` does, and its embedding if that is stored."""
        return self.image(row), stored_embedding(self.embeddings, row)

    def item(self, image_id: str) -> dict:
        """Return all that the page shows of an image but its pixels."""
        row, work = self.row(image_id), self.work
        edit = self.edits.of(image_id, row["sha256"])
        done = edit is not None and edit.state in JUDGED
        mask = self.edits.mask(image_id) if done else work.auto_mask(image_id)
        names = ("label", "split", "width", "height", "sha256", "auto")
        return {name: row[name] for name in names} | {
            "id": image_id,
            "state": edit.state if edit else "open",
            "version": self.edits.version(image_id),
            "box": edit.box if edit else (),
            "points": edit.points if edit else (),
            "mask": "" if mask is None else to_png(mask),
        }

    def ask(self, given: Ask) -> dict:
        """Return SAM2's mask and its predicted IoU."""
        row = self.row(given.id, given.sha256)
        given.check(row["width"], row["height"])
        if not (given.box or given.points):
            raise Refused("neither a box nor a click", "draw a box or click")
        mask, iou = self.sam2.ask(row, given.box, given.points)
        return {"mask": to_png(mask), "iou": round(iou, 3)}

    def save(self, given: Save) -> dict:
        """Write an edit; it is on the disk when this returns."""
        row = self.row(given.id, given.sha256)
        given.check(row["width"], row["height"])
        mask = np.zeros((row["height"], row["width"]), bool)
        if given.state == "accepted":
            mask = from_png(given.mask, row["width"], row["height"])
            if not mask.any():
                raise Refused("the mask is empty", "mark something, or say: nothing here (N)")
        prompt = {"box": tuple(given.box), "points": tuple(given.points), "painted": given.painted}
        prompt = prompt if given.state == "accepted" else {}
        edit = Edit(given.id, given.sha256, given.version + 1, given.state, **prompt)
        self.edits.save(edit, mask)
        self.work.update(given.id)
        return {"version": edit.version, "state": edit.state}

    def routes(self) -> list[Route]:
        """Return the addresses of the page."""

        def page(request: Request) -> Response:
            nonce, frame = secrets.token_urlsafe(16), self.work.frame
            orders = [name for name in ORDERS if name != "differ" or self.work.others]
            given = {"orders": orders, "order": self.order, "dataset": self.dataset}
            given |= {name: sorted(set(frame[name]) - {""}) for name in ("label", "split")}
            template = jinja2.Template(PAGE.read_text("utf-8"), autoescape=True)
            html = template.render(nonce=nonce, given=given)
            return HTMLResponse(html, headers={"Content-Security-Policy": POLICY.format(nonce)})

        def listed(request: Request) -> Response:
            asked = request.query_params
            names = ("label", "split", "state")
            chosen = {name: asked[name] for name in names if asked.get(name)}
            start, order = asked.get("start", "0"), asked.get("order", self.order)
            if order not in ORDERS or not (start.isascii() and start.isdigit() and len(start) < 12):
                raise Refused("no such order or place", "reload the page")
            found = self.work.page(order, chosen, int(start), back="back" in asked)
            return JSONResponse(found)

        def item(request: Request) -> Response:
            found = self.item(request.query_params.get("id", ""))
            show = BackgroundTask(self._show, self.row(found["id"]))
            return JSONResponse(found, background=show)

        def picture(request: Request) -> Response:
            data = io.BytesIO()
            row = self.row(request.query_params.get("id", ""))
            Image.fromarray(self.image(row)).save(data, "PNG", compress_level=1)
            return Response(data.getvalue(), media_type="image/png")

        def progress(request: Request) -> Response:
            return JSONResponse(self.work.progress())

        def posted(kind: type[Ask], answer: Callable) -> Callable:
            async def handle(request: Request) -> Response:
                given = parse(kind, await body(request))
                return JSONResponse(await run_in_threadpool(answer, given))

            return handle

        return [
            Route("/", page),
            *(Route(f"/api/{f.__name__}", f) for f in (listed, item, picture, progress)),
            Route("/api/ask", posted(Ask, self.ask), methods=["POST"]),
            Route("/api/save", posted(Save, self.save), methods=["POST"]),
        ]

    def _show(self, row: dict) -> None:
        with suppress(PipelineError):  # shown by the request of the picture
            self.sam2.show(row)


def to_png(mask: np.ndarray) -> str:
    """Return a mask, bool (h, w), as a PNG in base64."""
    data = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def from_png(text: str, width: int, height: int) -> np.ndarray:
    """Return the mask, bool (h, w), of a PNG in base64: light is inside. Refused if it is damaged
    or of another size."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        if image.size != (width, height):
            said = f"the mask is {image.width} x {image.height} pixels, not {width} x {height}"
            raise Refused(said, "load the image again (R)")
        return np.asarray(image.convert("L")) > 127
    except (OSError, SyntaxError, ValueError, binascii.Error):
        raise Refused("the mask is not a whole PNG", "load the image again (R)") from None


async def body(request: Request) -> bytes:
    """Return the body of a request; Refused above `MAX_BODY` bytes."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise Refused(f"more than {MAX_BODY >> 20} MB in a request", "send less", 413)
    return bytes(data)


def parse(kind: type[Ask], data: bytes) -> Ask:
    """Return what a JSON body says; Refused with the first field that is wrong."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise Refused(f"{where}: {first['msg']}", "reload the page") from None


def answer_error(request: Request, error: PipelineError) -> Response:
    status = getattr(error, "status", 422 if isinstance(error, ImageError) else 409)
    status = 500 if isinstance(error, DiskError) else status
    return JSONResponse({"error": " ".join(str(error).split())}, status)


class Guard:
    """Lets a request through that has the token, this host and this origin."""

    def __init__(self, app: Callable, token: str, port: int):
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        request, headers = Request(scope), Headers(scope=scope)
        given = request.query_params.get("token", "").encode()
        why = "" if hmac.compare_digest(given, self.token.encode()) else "no valid token"
        if headers.get("origin", next(iter(self.origins))) not in self.origins:
            why = "a request from another page"
        if headers.get("host", "") not in self.hosts:
            why = "a request for another host"
        app = self.app
        if why:
            remedy = "open the address that `pipeline review` printed"
            app = JSONResponse({"error": f"{why} - {remedy}"}, 403)

        async def send_safe(message: dict) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFE)
            await send(message)

        await app(scope, receive, send_safe)


def review_dataset(
    dataset: str,
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    port: int = 0,
    order: str = "empty",
    predictor: Sam2ImagePredictor | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Serve the page until Ctrl-C or SIGTERM, then write the variant `reviewed` of the masks.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `segment`, `images`, `evaluate` and the profile's `sam2` are used.
        paths: of the project folder.
        options: the device is used.
        port: of 127.0.0.1; 0 = one that is free.
        order: which images come first, a name of `ORDERS`.
        predictor: a loaded SAM2, instead of the one of the profile.
        say: is given the address of the page.

    Returns:
        The number of masks of the variant that were written.

    Raises:
        ConfigError: the port is in use, or there is no such order (for "differ": of other masks).
        ManifestError, ModelError, StoreError: nothing can be shown; or another process reviews.
    """
    if order not in ORDERS:
        raise ConfigError(f"no order {order!r}", remedy=f"use one of {', '.join(ORDERS)}")
    with listen(port) as sock, ProcessLock(paths.reviewed(dataset).with_suffix(".lock"), "review"):
        predictor = predictor or load_predictor(params, options)
        review = Review(dataset, params, paths, order, predictor)
        review.work.order(order)  # or say now why there is none
        token, port = secrets.token_urlsafe(24), sock.getsockname()[1]
        app = Starlette(routes=review.routes(), exception_handlers={PipelineError: answer_error})
        config = uvicorn.Config(
            Guard(app, token, port),
            **{"loop": "asyncio", "http": "h11", "ws": "none", "lifespan": "off"},
            **{"log_level": "warning", "access_log": False, "server_header": False},
            **{"proxy_headers": False, "timeout_graceful_shutdown": 2},
        )
        say(f"review {dataset}: open http://{HOST}:{port}/?token={token} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[sock])
        work = review.work
        done = work.store is not None and review.edits.known
        return write_variant(work, params, paths) if done else 0


def listen(port: int) -> socket.socket:
    """Return a socket of the loopback address; ConfigError if the port cannot be had."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen()
    except (OSError, OverflowError) as error:
        sock.close()
        used = getattr(error, "errno", 0) == errno.EADDRINUSE
        message = f"port {port} {'is in use' if used else f'cannot be used: {error}'}"
        remedy = "give another --port, or none for one that is free"
        raise ConfigError(message, remedy=remedy) from None
    return sock
