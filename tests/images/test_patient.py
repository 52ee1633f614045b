"""The code of a patient: the same for all files of one, dear to guess, and quick with a key."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from pipeline.images import patient_code
from tests.images.makers import dicom, grey, save_dicom

KEY = "PIPELINE_PATIENT_KEY"


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def scrypts(monkeypatch) -> list[bytes]:
    """The texts of which the slow function was asked for."""
    calls, real = [], hashlib.scrypt

    def counted(text: bytes, **how) -> bytes:
        calls.append(text)
        return real(text, **how)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    return calls


def save(path: Path, patient: str, issuer: str = "", seed: int = 0) -> Path:
    tags = {"IssuerOfPatientID": issuer} if issuer else {}
    return save_dicom(dicom(grey(seed=seed), patient=patient, **tags), path)


@pytest.mark.parametrize("key", ["", "our secret"])
def test_the_same_number_of_two_hospitals_is_two_patients(tmp_path, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    issuers = ["", "North", "South", "North"]
    codes = [patient_code(save(tmp_path / f"{k}", "0042", i)) for k, i in enumerate(issuers)]
    assert codes[1] == codes[3] and len(set(codes)) == 3


def test_without_a_key_each_guess_costs_milliseconds_and_memory(tmp_path, no_key, scrypts):
    files = [save(tmp_path / f"{k}", f"guess {k}") for k in range(5)]
    start = time.process_time()
    codes = {patient_code(file) for file in files}
    spent = time.process_time() - start
    assert len(codes) == len(scrypts) == 5
    assert spent / 5 > 0.005  # BLAKE2b takes a microsecond


def test_a_patient_is_derived_once_in_a_process(tmp_path, no_key, scrypts):
    files = [save(tmp_path / f"{k}", "often seen", seed=k) for k in range(4)]
    assert len({patient_code(file) for file in files}) == 1
    assert len(scrypts) == 1
    assert sorted(tmp_path.iterdir()) == files  # nothing of it is written


def test_a_key_of_ones_own_is_quick_and_decides_the_code(tmp_path, monkeypatch, scrypts):
    file = save(tmp_path / "x", "keyed")
    codes = []
    for key in ("one", "two", "one"):
        monkeypatch.setenv(KEY, key)
        codes.append(patient_code(file))
    assert codes[0] == codes[2] != codes[1] and not scrypts
    monkeypatch.delenv(KEY)
    assert patient_code(file) not in codes and len(scrypts) == 1
