"""The code of a DICOM patient: one per patient, one-way, slow to guess without a key."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from PIL import Image

from pipeline.images import patient_code
from tests.images.makers import dicom, grey, save_dicom

KEY = "PIPELINE_PATIENT_KEY"
GROUPED = "DICOM images are grouped by patient by a one-way code."


@pytest.fixture
def scrypts(monkeypatch) -> list[bytes]:
    """No key; the texts for which the slow hash was computed."""
    calls, real = [], hashlib.scrypt

    def counted(text: bytes, **how) -> bytes:
        calls.append(text)
        return real(text, **how)

    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(hashlib, "scrypt", counted)
    return calls


def save(path: Path, patient: str, issuer: str = "", seed: int = 0) -> Path:
    tags = {"IssuerOfPatientID": issuer} if issuer else {}
    return save_dicom(dicom(grey(seed=seed), patient=patient, **tags), path)


@pytest.mark.promise(GROUPED)
def test_files_of_a_patient_have_one_code_which_does_not_contain_the_id(tmp_path, scrypts):
    files = [save(tmp_path / f"{k}", "HOSP-00421-own", seed=k) for k in range(4)]
    codes = {patient_code(file) for file in files}
    (code,) = codes
    assert code[0] == "p" and len(code) == 17 and "421" not in code and "HOSP" not in code
    assert len(scrypts) == 1  # cached in the process,
    assert sorted(tmp_path.iterdir()) == files  # and never written
    assert patient_code(save(tmp_path / "other", "HOSP-00422")) not in codes
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
    tmp_path, monkeypatch, scrypts
):
    files = [save(tmp_path / f"{k}", f"guess {k}") for k in range(5)]
    start = time.process_time()
    slow = [patient_code(file) for file in files]
    assert time.process_time() - start > 5 * 0.005  # BLAKE2b takes a microsecond
    assert len(set(slow)) == len(scrypts) == 5
    keyed = []
    for key in ("one", "two", "one"):
        monkeypatch.setenv(KEY, key)
        keyed.append(patient_code(files[0]))
    assert keyed[0] == keyed[2] != keyed[1] and slow[0] not in keyed and len(scrypts) == 5
