"""The server of the review page: who is let in, what is refused, what is on the disk."""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import signal
import socket
from functools import partial
from urllib.parse import quote

import numpy as np
import pytest

from pipeline.encode.encode import encode_dataset
from pipeline.errors import ConfigError, StoreError
from pipeline.images import read_mask
from pipeline.paths import Paths
from pipeline.review.edits import VARIANT, Edit, Edits, Stale
from pipeline.review.server import MAX_BODY, listen, review_dataset
from pipeline.review.variant import update_variant, write_variant
from pipeline.review.worklist import PAGE, Worklist
from pipeline.segment.quality import overlap
from pipeline.store import open_features, open_masks
from tests.encode.conftest import small_clip
from tests.project import DATASET, REPO, in_process
from tests.review.conftest import QUIET, png


@pytest.fixture(scope="module")
def server(reviewed):
    served = reviewed.serve()
    yield served
    assert served.end(signal.SIGTERM) == 0, served.running.output


def shown(reviewed, k: int) -> dict:
    row = reviewed.project.rows[k]
    return {"id": row["image_id"], "sha256": row["sha256"]}


@pytest.mark.promise(
    "The review page answers on the loopback address only, to requests with its token, host and "
    "origin."
)
def test_only_the_page_itself_is_answered(server):
    assert server.call("")[0] == 200 and server.call("api/listed")[0] == 200
    for path in ("", "api/listed", "api/item?id=x", "api/save", "nowhere"):
        for token in ("", "x", server.token[:-1], server.token + "x"):
            status, said = server.call(path, token=token)
            assert status == 403 and "no valid token - open the address" in said["error"]
    home = f"127.0.0.1:{server.port}"
    for headers in (
        {"Host": f"evil.example:{server.port}"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://{home}"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        assert server.call("api/listed", headers=headers)[0] == 403, headers
    assert server.call("api/listed", headers={"Origin": f"http://{home}"})[0] == 200
    other = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for host in {*other, "127.0.0.2"} - {"127.0.0.1"}:
        with pytest.raises(OSError):
            socket.create_connection((host, int(server.port)), 5).close()
    asked = http.client.HTTPConnection(home)
    asked.request("GET", f"/?token={server.token}")
    policy = asked.getresponse().headers["Content-Security-Policy"]
    asked.close()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


@pytest.mark.promise("A request that is broken gets one line with the remedy, and changes nothing.")
def test_what_is_broken_is_refused_in_one_line(server, reviewed):
    first = shown(reviewed, 1)
    save = first | {"version": 0, "state": "accepted", "mask": png(np.ones((64, 80), bool))}
    cases = [
        ("ask", first | {"box": [9, 9, 3, 3]}, 400, "box 9,9,3,3: not x0,y0,x1,y1 inside the ima"),
        ("ask", first | {"box": [0, 0, 81, 9]}, 400, "80 x 64 pixels - draw it again"),
        ("ask", first | {"box": [1, 2, 3]}, 400, "draw it again"),
        ("ask", first | {"points": [[-1, 0, 1]]}, 400, "click on the image"),
        ("ask", first | {"points": [[1, 0, 2]]}, 400, "points.0.2"),
        ("ask", first | {"box": ["a", 0, 1, 1]}, 400, "box.0"),
        ("ask", first, 400, "neither a box nor a click"),
        ("ask", first | {"id": "none"}, 404, "no image 'none' in the manifest"),
        ("ask", first | {"sha256": "0"}, 409, "another image by now - load it again"),
        ("ask", b'{"box": [NaN', 400, "reload the page"),
        ("save", save | {"state": "done"}, 400, "state"),
        ("save", save | {"mask": png(np.zeros((64, 80), bool))}, 400, "the mask is empty"),
        ("save", save | {"mask": png(np.ones((9, 9), bool))}, 400, "9 x 9 pixels, not 80 x 64"),
        ("save", save | {"mask": save["mask"][:40]}, 400, "not a whole PNG"),
        ("save", save | {"mask": "~"}, 400, "not a whole PNG"),
        ("save", save | {"version": 4}, 409, "was saved by another page"),
        ("save", b" " * (MAX_BODY + 1), 413, "more than 8 MB"),
    ]
    for path, body, status, said in cases:
        found = server.call(f"api/{path}", body)
        assert found[0] == status and said in found[1]["error"], (path, found)
        assert "\n" not in found[1]["error"] and " - " in found[1]["error"]
    for path in ("item", "picture"):
        assert server.call(f"api/{path}?id=../../params.yaml")[0] == 404
    assert server.call("api/listed?order=best")[0] == 400
    assert server.call("api/listed?start=-1")[0] == 400
    assert not [*reviewed.project.paths.reviewed(DATASET).glob("*.png")]


@pytest.mark.promise("Two review pages that are open at once do not overwrite each other.")
def test_a_stale_page_overwrites_nothing_and_a_changed_manifest_is_seen(server, reviewed):
    project, (height, width) = reviewed.project, (64, 80)
    mine, other = np.zeros((2, height, width), bool)
    mine[:9], other[9:] = True, True
    body = shown(reviewed, 2) | {"version": 0, "state": "accepted"}
    assert server.call("api/save", body | {"mask": png(mine)})[1]["version"] == 1
    status, said = server.call("api/save", body | {"mask": png(other)})
    assert status == 409 and "nothing was overwritten" in said["error"]
    edits = Edits(project.paths.reviewed(DATASET))
    assert (edits.mask(body["id"]) == mine).all()
    before, row = dict(project.row(body["id"])), project.row(body["id"])
    try:
        row["sha256"] = "0" * 64
        project.write()
        assert server.call("api/save", body | {"version": 1, "mask": png(other)})[0] == 409
        status, said = server.call(f"api/picture?id={quote(body['id'])}")
        assert status == 422 and body["id"] in said["error"]  # not the file of the manifest
        project.paths.manifest(DATASET).write_text("broken")
        status, said = server.call("api/listed")
        assert status == 409 and "no column" in said["error"]
    finally:
        row |= before
        project.write()
    assert server.call("api/save", body | {"version": 1, "mask": png(other)})[1]["version"] == 2


def test_a_port_in_use_another_process_and_a_damaged_file_are_said(server, reviewed, tmp_path):
    paths, root = reviewed.project.paths, tmp_path
    shutil.copy(REPO / "params.yaml", root)
    code, said = in_process(root, "review", "-d", "toy", "--port", server.port)
    assert code == 2 and f"error: port {server.port} is in use - give another --port" in said
    code, said = in_process(root, "review", "-d", "toy", "--order", "best")
    assert code == 2 and "use one of empty, full, low, differ, random" in said
    with pytest.raises(StoreError, match="the review is being written by process"):
        review_dataset(DATASET, reviewed.params, paths)
    with pytest.raises(ConfigError, match="cannot be used"):
        listen(99999)
    (root / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(StoreError, match="not a whole review of an image - restore it"):
        Edits(root)


@pytest.mark.promise("Masks corrected by hand become the variant `reviewed`; no others are redone.")
def test_the_variant_has_what_was_drawn_and_rewrites_only_what_changed(reviewed, tmp_path):
    shutil.copytree(reviewed.project.paths.root, tmp_path / "copy")
    paths, params = Paths(tmp_path / "copy"), reviewed.params
    for made in (paths.reviewed(DATASET), paths.masks(DATASET, VARIANT)):
        shutil.rmtree(made, ignore_errors=True)
    rows = reviewed.project.rows
    edits = Edits(paths.reviewed(DATASET))
    work = Worklist(DATASET, params, paths, edits)
    made = paths.masks(DATASET, VARIANT)
    assert update_variant(DATASET, params, paths) == 0 and not made.exists()
    with pytest.raises(ConfigError, match=r"no image has two masks .*pipeline adapt"):
        work.page("differ", {})
    assert write_variant(work, params, paths) == 8 and write_variant(work, params, paths) == 0
    given = reviewed.project.params(encode__views=["whole", "masked", "random"]), paths, QUIET
    encode = partial(encode_dataset, DATASET, *given, clip=small_clip())
    assert encode().done == 8 and encode(variant=VARIANT).done == 0  # all are copied
    drawn = np.zeros((64, 80), bool)
    drawn[5:30, 7:40] = True
    edits.save(Edit(rows[3]["image_id"], rows[3]["sha256"], 1, "accepted", (7, 5, 40, 30)), drawn)
    edits.save(Edit(rows[4]["image_id"], rows[4]["sha256"], 1, "nothing"), drawn & False)
    edits.save(Edit(rows[5]["image_id"], rows[5]["sha256"], 1, "skipped"), drawn & False)
    with pytest.raises(Stale):
        edits.save(Edit(rows[3]["image_id"], rows[3]["sha256"], 1, "nothing"), drawn)
    again = Edits(paths.reviewed(DATASET))
    assert again.known == edits.known
    assert update_variant(DATASET, params, paths) == 2
    made, auto = (open_masks(paths.masks(DATASET, v)) for v in (VARIANT, ""))
    assert (made[rows[3]["image_id"]] == drawn).all() and not made[rows[4]["image_id"]].any()
    table = made.table()
    assert table.loc[rows[3]["image_id"], "prompt"] == "reviewed: accepted, box 7,5,40,30"
    assert table.loc[rows[4]["image_id"], "status"] == "empty"
    assert made.attrs["not_reviewed"] == "the automatic mask, from masks.zarr"
    for k in (0, 1, 2, 5, 6, 7):
        assert (made[rows[k]["image_id"]] == auto[rows[k]["image_id"]]).all()

    changed = {i for i in made if (made[i] != auto[i]).any()}
    assert rows[3]["image_id"] in changed and encode(variant=VARIANT).done == len(changed) < 3
    full, some = (open_features(paths.features(DATASET, v)) for v in ("", VARIANT))
    assert some.views == ("masked", "random")
    for i, view in itertools.product(made, some.views):
        same = (some.image_features(view, [i]) == full.image_features(view, [i])).all()
        assert same == (i not in changed), (i, view)

    other = paths.masks(DATASET, "other/0")  # as of another strategy
    other.parent.mkdir()
    os.rename(paths.masks(DATASET, VARIANT), other)
    work, other = Worklist(DATASET, params, paths, again), open_masks(other)
    ids = [row["image_id"] for row in rows]
    differ = dict(zip(work.frame.index, work.disagreement(), strict=True))
    dice = {i: overlap(auto[i], other[i])[0] if (auto[i] != other[i]).any() else 1 for i in ids}
    assert differ == {i: 1 - value for i, value in dice.items()}
    assert differ[ids[3]] > 0 and sum(value > 0 for value in differ.values()) <= 2
    first = [row["image_id"] for row in work.page("differ", {})["rows"]]
    assert [differ[i] for i in first] == sorted(differ.values(), reverse=True)


@pytest.mark.promise("The Dice of the automatic masks is estimated from a random sample alone.")
def test_the_estimate_is_that_of_the_head_of_the_random_order(reviewed, tmp_path):
    project = reviewed.project
    edits = Edits(tmp_path / "reviewed")
    work = Worklist(DATASET, reviewed.params, project.paths, edits)
    order = [work.frame.index[k] for k in work.orders["random"]]

    def accept(image_id):
        row = project.row(image_id)
        truth = read_mask(project.paths.data(DATASET) / row["mask_path"])
        state = "accepted" if truth.any() else "nothing"
        edits.save(Edit(image_id, row["sha256"], edits.version(image_id) + 1, state), truth)
        work.update(image_id)
        return overlap(work.auto_mask(image_id), truth)[0] if truth.any() else None

    accept(order[3])  # chosen for its need: no part of the sample
    assert work.progress()["dice"]["mean"] is None and work.progress()["judged"] == 1
    values = [accept(image_id) for image_id in (*order[:3], order[3])]
    known = [value for value in values if value is not None]
    found = work.progress()
    assert found["dice"]["mean"] == round(float(np.mean(known)), 3)
    assert found["sample"] == {"images": len(known), "left_out": 4 - len(known)}
    assert found["dice"]["lo"] <= found["dice"]["mean"] <= found["dice"]["hi"]


def test_pages_of_a_large_list_are_complete_and_keep_their_place(reviewed, tmp_path):
    project = reviewed.project
    edits = Edits(tmp_path / "reviewed")
    work = Worklist(DATASET, reviewed.params, project.paths, edits)
    work.frame = work.frame.iloc[np.zeros(100_000, int)].copy()
    work.frame["auto"] = np.where(np.arange(100_000) % 1000, "ok", "empty")
    work.states = np.full(100_000, "open", object)
    work.orders["low"] = np.arange(100_000)
    start, seen = 0, []
    while (page := work.page("low", {"auto": "empty", "state": "open"}, start))["rows"]:
        work.states[page["rows"][0]["place"]] = "accepted"  # what is done moves nothing
        seen += [row["place"] for row in page["rows"]]
        start = seen[-1] + 1
    assert seen == list(range(0, 100_000, 1000)) and page["total"] == 98
    back = work.page("low", {"auto": "empty"}, 1000 * PAGE, back=True)["rows"]
    assert [row["place"] for row in back] == [1000 * k for k in range(PAGE)]
    work = Worklist(DATASET, reviewed.params, project.paths, edits)
    need = [work.frame["auto"].iat[k] for k in work.orders["empty"]]
    assert need == sorted(need, key=lambda auto: auto != "empty")
    low = work.frame["iou"].to_numpy()[work.orders["low"]]
    assert (np.diff(low[np.isfinite(low)]) >= 0).all()
