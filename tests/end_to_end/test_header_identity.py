"""No name, id, date or remark of a file's header reaches anything that the pipeline writes or says:
DICOM, EXIF, PNG text, TIFF description, NIfTI header."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline import open_features, open_masks
from tests.images.makers import BIRTH, PATIENT, dicom, grey, save_dicom
from tests.project import small, write_params
from tests.site import Site

# Long enough that no code or picture holds it by chance.
NAME = "Featherstonehaugh^Wilhelmina"
EXIF = ("Thistlewood, Zebediah", "Dr. Ottoline Quackenbush", "48.20849N 16.37208E", "room 7431-Q")
TEXT = ("Mountstuart-Elphinstone", "admitted 1952-07-04")
TIFF = "Throckmorton born 1939-02-28"
NIFTI = ("Cholmondeley 19630312", "MRN-8830017")
SECRETS = (*NAME.split("^"), PATIENT, BIRTH, *EXIF, *TEXT, TIFF, *NIFTI)
OTHERS = ("photo.jpg", "shot.png", "film.tif", "slice.nii")
COMMANDS = (
    "data add scans --from scans",
    "data preview -d scans",
    "data check -d scans",
    "data refresh scans",
    "audit -d scans --json",
    "segment -d scans",
    "encode -d scans",
    "splits export -d scans",
    "train -d scans --jobs 1",
    "evaluate -d scans --jobs 1 --json",
    "compare -d scans",
    "verify cache/scans/masks.zarr cache/scans/features.zarr",
    "status",
    "results -d scans",
)
PREDICT = ("predict", "-d", "scans", "--learner", "linear-probe", "--view", "whole")
LEARNERS = ("linear-probe", "zero-shot")
PARAMS = {
    **{"segment__prompt": "full", "segment__max_failed": 1.0},
    **{"encode__views": ["whole"], "encode__max_failed": 1.0},
    **{"splits__fractions": [1.0], "splits__folds": 2},
    **{"train__seeds": [0], "train__views": {"official": ["whole"]}},
    "learners": {name: small()["learners"][name] for name in LEARNERS},
    "study__runs": [{"name": name, "learner": name, "view": "whole"} for name in LEARNERS],
    "evaluate__bootstrap": 20,
}


def draw_others(folder: Path) -> None:
    """Save one picture in each further format whose header holds what nobody should read."""
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = EXIF[:2]  # description, artist
    exif.get_ifd(0x8825)[0x1C] = EXIF[2].encode()  # the name of a place
    picture = Image.fromarray(grey(seed=20))
    picture.save(folder / "photo.jpg", exif=exif, comment=EXIF[3])
    text = PngInfo()
    text.add_text("Patient", TEXT[0])
    text.add_itxt("Remark", TEXT[1])
    Image.fromarray(grey(seed=21)).save(folder / "shot.png", pnginfo=text)
    tifffile.imwrite(folder / "film.tif", grey(seed=22), description=TIFF, photometric=1)
    volume = nib.Nifti1Image(grey(seed=23)[..., None], np.eye(4))
    volume.header["descrip"], volume.header["aux_file"] = NIFTI
    volume.to_filename(folder / "slice.nii")


@pytest.fixture
def project(tmp_path: Path) -> Site:
    """Eight DICOM scans of four patients, and a picture of each further format."""
    root = tmp_path / "project"
    (root / "data_manifests").mkdir(parents=True)
    write_params(root, datasets=["scans"], **PARAMS)
    prompts = {"templates": {"default": ["{}"]}, "classes": {"scans": {"a": "one", "b": "two"}}}
    (root / "data_manifests/prompts.yaml").write_text(yaml.safe_dump(prompts))
    for k in range(8):
        file = root / "scans" / "ab"[k % 2] / f"{k}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        patient = {"patient": f"{PATIENT}-{k // 2}", "PatientName": NAME}
        save_dicom(dicom(grey(seed=k), **patient), file)
    draw_others(root / "scans/a")
    return Site(root)


def unpacked(raw: bytes) -> str:
    """Return bytes as text, decompressed, and what a picture says beside its pixels."""
    raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    text = raw.decode("latin-1")
    if raw.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF")):
        with Image.open(io.BytesIO(raw)) as picture:
            text += f"{picture.info} {dict(picture.getexif())}"
    return text


def written(project: Site) -> dict[str, str]:
    """Return everything written, decompressed, and the pictures inside pages, by their names."""
    found = {}
    for file in project.root.rglob("*"):
        name = str(file.relative_to(project.root))
        if file.is_file() and not name.startswith(("scans/", "data/")):
            found[name] = unpacked(file.read_bytes())
            for k, blob in enumerate(re.findall(r"base64,([A-Za-z0-9+/=]+)", found[name])):
                found[f"{name}: picture {k}"] = unpacked(base64.b64decode(blob))
        if file.suffix == ".parquet":
            found[f"{name}: table"] = pd.read_parquet(file).to_csv()
    for stage, open_store in {"masks": open_masks, "features": open_features}.items():
        store = open_store(project.root / f"cache/scans/{stage}.zarr")
        found[store.path.name] = store.table().to_csv() + json.dumps(dict(store.attrs), default=str)
    return found


@pytest.mark.promise(
    "No name, id, date or remark of a file's header reaches anything that is written or printed."
)
def test_nothing_written_or_said_holds_a_name_an_id_or_a_birth_date(project: Site) -> None:
    sources = {file.name: file for file in project.root.glob("scans/*/*")}
    held = "".join(file.read_bytes().decode("latin-1") for file in sources.values())
    assert all(secret in held for secret in SECRETS)
    images = [str(sources[name].relative_to(project.root)) for name in ("0.dcm", *OTHERS)]
    said = {command: project.run("pipeline", *command.split()) for command in COMMANDS}
    said["predict"] = project.run("pipeline", *PREDICT, *images)
    assert len(list((project.root / "predictions").glob("*.png"))) == len(images)
    for name in ("0.dcm", *OTHERS):
        sources[name].write_bytes(sources[name].read_bytes()[:-300])
    said["again"] = project.run("pipeline", "segment", "-d", "scans", "--force")
    said["refresh"] = project.run("pipeline", "data", "refresh", "scans", code=3)
    said["refused"] = project.run("pipeline", *PREDICT, *images, code=3)
    said["report"] = project.run("pipeline", "report", "--dataset", "scans")
    assert "FAILED a/0.dcm" in said["refresh"]
    for what in ("again", "refused"):
        assert all(name in said[what] for name in ("0.dcm", *OTHERS)), said[what]
    found = written(project)
    kinds = {Path(name).suffix for name in found}
    assert {".csv", ".png", ".parquet", ".json", ".html", ".zarr", ".md", ".safetensors"} <= kinds
    assert [name for name in found if ".html: picture" in name]
    for what, text in {**said, **found}.items():
        assert not [secret for secret in SECRETS if secret in text], what
    assert not [n for n in found for secret in SECRETS if secret in n]
    manifest = pd.read_csv(project.root / "data_manifests/scans.csv", dtype=str)
    assert manifest["patient_id"].nunique() == 4
    assert {Path(path).name for path in manifest["path"]} == set(sources)
