"""No name, id or birth date of a DICOM header reaches anything that the pipeline writes or says."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline import open_features, open_masks
from tests.images.makers import BIRTH, PATIENT, dicom, grey, save_dicom

from .conftest import Project

# Long enough that no code or picture holds it by chance.
NAME = "Featherstonehaugh^Wilhelmina"
SECRETS = (*NAME.split("^"), PATIENT, BIRTH)
COMMANDS = (
    ("data", "add", "scans", "--from", "scans"),
    ("data", "preview", "--dataset", "scans"),
    ("data", "check", "--dataset", "scans"),
    ("segment", "--dataset", "scans", "--set", "segment.prompt=full"),
    ("encode", "--dataset", "scans", "--set", "encode.views=[whole]"),
    ("splits", "export", "--dataset", "scans"),
    ("verify", "cache/scans/masks.zarr", "cache/scans/features.zarr"),
    ("status",),
    ("report", "--dataset", "scans"),
)


@pytest.fixture
def project(tmp_path: Path, repo: Path) -> Project:
    """Eight scans of four patients, one of whom has a damaged file too."""
    root = tmp_path / "project"
    params = yaml.safe_load((repo / "params.yaml").read_text()) | {"datasets": ["scans"]}
    params["segment"]["max_failed"] = params["encode"]["max_failed"] = 1.0
    (root / "data_manifests").mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    prompts = {"templates": {"default": ["{}"]}, "classes": {"scans": {"a": "one", "b": "two"}}}
    (root / "data_manifests/prompts.yaml").write_text(yaml.safe_dump(prompts))
    for k in range(8):
        file = root / "scans" / "ab"[k % 2] / f"{k}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        patient = {"patient": f"{PATIENT}-{k // 2}", "PatientName": NAME}
        save_dicom(dicom(grey(seed=k), **patient), file)
    return Project(root)


def written(project: Project) -> dict[str, str]:
    """Everything written, decompressed: {what: text}."""
    found = {}
    for file in project.root.rglob("*"):
        inside = file.relative_to(project.root)
        if not file.is_file() or inside.parts[0] in ("scans", "data"):
            continue
        if file.suffix == ".parquet":
            found[str(inside)] = pd.read_parquet(file).to_csv()
        else:
            found[str(inside)] = file.read_bytes().decode("latin-1")
    for store in (
        open_masks(project.root / "cache/scans/masks.zarr"),
        open_features(project.root / "cache/scans/features.zarr"),
    ):
        found[str(store.path)] = store.table().to_csv() + json.dumps(dict(store.attrs), default=str)
    return found


def test_nothing_written_or_said_holds_a_name_an_id_or_a_birth_date(project: Project) -> None:
    said = {" ".join(command): project.run("pipeline", *command) for command in COMMANDS}
    damaged = project.root / "scans/a/0.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    said["again"] = project.run("pipeline", "segment", "-d", "scans", "--force",
                                "--set", "segment.prompt=full")  # fmt: skip
    assert "0.dcm" in said["again"]
    found = written(project)
    kinds = {Path(name).suffix for name in found}
    assert {".csv", ".png", ".parquet", ".json", ".html", ".zarr"} <= kinds
    for what, text in {**said, **found}.items():
        assert not [secret for secret in SECRETS if secret in text], what
    assert not [n for n in found for secret in SECRETS if secret in n]
    manifest = pd.read_csv(project.root / "data_manifests/scans.csv", dtype=str)
    assert manifest["patient_id"].nunique() == 4
