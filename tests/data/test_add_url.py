"""`data add` of images on a real S3 server writes what it writes of the same files in a folder."""

from __future__ import annotations

import json
import shutil

import fsspec
import pytest

from pipeline import remote
from pipeline.errors import PipelineError
from pipeline.intake import TableRules, add_dataset
from pipeline.paths import Paths
from tests.project import in_process, write_params

from .conftest import mask, pages, picture, rows_of, zip_of

ODD = "odd #1 50%?ü+.png"


@pytest.fixture
def there(place, tmp_path, busi):
    """A set on the disk, and the URL of the same files: masks beside, pages, junk."""
    top = tmp_path / "set"
    shutil.move(busi, top / "images")
    for label in ("benign", "malignant", "normal"):
        picture(top / f"images/{label}/{ODD}", seed=9)
        mask(top / f"truth/{label}/{ODD}", 4)
    pages(top / "images/normal/pages.tif", 3)
    rows = f"images/benign/{ODD},a,1\nimages\\normal\\pages.tif,b,2\nimages/no.png,b,3"
    texts = {"images/normal/broken.png": "no image", "images/empty.csv": ""}
    texts |= {"table.csv": f"path,label,patient\n{rows}"}
    texts["masks.csv"] = f"path,mask\nimages/benign/{ODD},truth/benign/{ODD}\n"
    texts["groups.csv"] = "path,series\nnormal/pages.tif,S1\n"
    for name, text in texts.items():
        (top / name).write_text(text, "utf-8")
    zip_of(top / "set.zip", top / "images")
    return top, upload(top, place)


def upload(folder, url):
    files = [file for file in folder.rglob("*") if file.is_file()]
    remote.write({url / f.relative_to(folder).as_posix(): f.read_bytes() for f in files})
    return url


def add(paths, top, name, masks="", groups="", images="", **options):
    """Add what is below `top`, a folder or URL; return the manifest and what was said."""
    masks, groups, images = (str(top / name) if name else None for name in (masks, groups, images))
    options |= {"masks": masks, "groups": groups, "table": TableRules(images=images)}
    made = add_dataset("images", str(top / name), paths=paths, **options)
    copy = paths.fetched(top) if remote.is_url(top) else top
    said = str(made.to_json()).replace(str(copy), "TOP").replace(str(paths.root), "ROOT")
    return paths.manifest("images").read_bytes(), said


@pytest.mark.promise(
    "`data add` of a folder, tables or a zip at a URL writes the manifest of the same files here."
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("images", {"masks": "truth", "groups": "groups.csv"}),
        ("table.csv", {"masks": "masks.csv"}),
        ("table.csv", {"images": "images", "patient_regex": "(odd)"}),
        ("set.zip", {}),
    ],
)
def test_what_is_at_a_url_gives_the_manifest_of_the_same_files(there, tmp_path, name, options):
    here, away = Paths(tmp_path / "here"), Paths(tmp_path / "away")
    made = add(here, there[0], name, **options)
    assert made == add(away, there[1], name, **options) and made[0].count(b"\n") > 3
    record = json.loads(away.record("images", "add").read_text())
    assert str(there[1] / name) in record["parameters"]["fetched"]


@pytest.mark.promise(
    "A fetch from a URL that is cut off goes on from there, and what has not changed is not "
    "fetched again."
)
def test_a_fetch_goes_on_and_follows_what_changes(s3, there, tmp_path, monkeypatch):
    (top, url), paths = there, Paths(tmp_path / "away")
    with monkeypatch.context() as patch:
        patch.setattr(remote, "WAITS", ())
        s3.until, s3.counted = 12, "GET"
        with pytest.raises(PipelineError, match="the server does not answer"):
            add(paths, url, "images")
    kept = {file.name for file in paths.root.rglob("*.png")}
    assert kept and not paths.manifest("images").exists()
    s3.start()
    s3.images.clear()
    with open(paths.fetched() / "objects.jsonl", "ab") as file:
        file.write(b'\n["s3://bucket/x", [1')  # cut by a kill
    (paths.fetched() / "7.partial").write_bytes(b"1")
    before = add(paths, url, "images")
    assert s3.images and not kept & s3.images.keys()
    s3.images.clear()
    assert add(paths, url, "images")[0] == before[0] and not s3.images
    # Replaced by one of the same size, removed, added; and a copy that was changed by hand.
    picture(top / "images/benign/benign (1).png", seed=77)
    (top / "images/normal/normal (2).png").unlink()
    remote.remove(url / "images/normal/normal (2).png")
    picture(top / "images/normal/new.png", seed=78)
    upload(top / "images", url / "images")
    (paths.fetched(url) / "images/malignant/malignant (1).png").write_bytes(b"changed")
    after = add(paths, url, "images")
    assert after[0] == add(Paths(tmp_path / "here"), top, "images")[0] != before[0]
    assert not list(paths.fetched().glob("*.partial"))


@pytest.mark.promise("Images that are at `data_root`, a URL, are added and stay there.")
def test_with_data_root_at_a_url(there, tmp_path):
    (top, url), paths = there, Paths(tmp_path / "away", str(there[1]))
    made = add(paths, url, "images", masks="truth")
    assert made[0] == add(Paths(tmp_path / "here"), top, "images", masks="truth")[0]
    assert len(rows_of(paths, "images")) == 12 and not (paths.root / "data/images").exists()
    with pytest.raises(PipelineError, match="data_root is a URL, and the images are not there"):
        add(paths, top, "images")


def test_what_cannot_be_fetched_is_said_in_one_line(s3, place, tmp_path):
    write_params(tmp_path)

    def said(url):
        code, text = in_process(tmp_path, "data", "add", "d", "--from", str(url))
        assert code == 2 and not (tmp_path / "data_manifests/d.csv").exists()
        return text.strip().splitlines()[-1]

    assert "nothing is there - check the URL" in said(place / "none")
    remote.write({place / "b" / name: b"1" for name in ("x", "x/y.png")})
    assert "1 names cannot be those of files: 'x' - rename" in said(place / "b")
    fsspec.filesystem("s3").call_s3("put_object", Bucket="bucket", Key=f"{place.name}/c/../up.png")
    assert "'../up.png'" in said(place / "c") and not list(tmp_path.rglob("up.png"))
    secret = said(str(place).replace("://", "://KEY:SECRET@"))
    assert "holds a user and a password" in secret and "SECRET" not in secret
