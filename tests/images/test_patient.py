"""The code of a DICOM patient: one per patient, one-way, slow to guess without a key."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.images import patient_code
from tests.images.makers import dicom, grey, save_dicom

KEY = "PIPELINE_PATIENT_KEY"
GROUPED = "DICOM images are grouped by patient by a one-way code."


def save(path: Path, patient: str, issuer: str = "", seed: int = 0) -> Path:
    tags = {"IssuerOfPatientID": issuer} if issuer else {}
    return save_dicom(dicom(grey(seed=seed), patient=patient, **tags), path)


@pytest.mark.promise(GROUPED)
def test_files_of_a_patient_have_one_code_which_does_not_contain_the_id(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    files = [save(tmp_path / f"{k}", "HOSP-00421-own", seed=k) for k in range(4)]
    (code,) = {patient_code(file) for file in files}
    assert code[0] == "p" and len(code) == 17 and "421" not in code and "HOSP" not in code
    assert sorted(tmp_path.iterdir()) == files  # nothing is written
    assert patient_code(save(tmp_path / "other", "HOSP-00422")) != code
    assert patient_code(save(tmp_path / "nameless", "")).startswith("p")  # by study
    Image.fromarray(grey()).save(tmp_path / "x.png")
    assert patient_code(tmp_path / "x.png") == ""


@pytest.mark.promise(GROUPED)
@pytest.mark.parametrize("key", ["", "our secret"])
def test_the_same_number_of_two_hospitals_is_two_patients(tmp_path, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    issuers = ["", "North", "South", "North"]
    codes = [patient_code(save(tmp_path / f"{k}", "0042", i)) for k, i in enumerate(issuers)]
    assert codes[1] == codes[3] and len(set(codes)) == 3


@pytest.mark.promise("Guessing a patient id takes the secret key, or milliseconds per guess.")
def test_without_a_key_each_guess_costs_milliseconds_and_with_one_it_needs_the_key(
    tmp_path, monkeypatch
):
    monkeypatch.delenv(KEY, raising=False)
    files = [save(tmp_path / f"{k}", f"guess {k}") for k in range(5)]
    start = time.process_time()
    slow = {patient_code(file) for file in files}
    assert time.process_time() - start > 5 * 0.005  # BLAKE2b takes a microsecond
    keyed = []
    for key in ("one", "two", "one"):
        monkeypatch.setenv(KEY, key)
        keyed.append(patient_code(files[0]))
    assert len(slow) == 5 and keyed[0] == keyed[2] != keyed[1] and not slow & set(keyed)
