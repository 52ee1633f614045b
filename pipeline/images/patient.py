"""A one-way code of the DICOM patient, for grouping. The header's values never leave this file."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from pipeline.images.kinds import HEAD_BYTES, sniff

SALT = b"medfocusclip patient grouping v2"  # public: short ids can be guessed, slowly
COST = {"n": 2**12, "r": 8, "p": 1}  # of scrypt: 4 MiB and about 30 ms per patient


def patient_code(path: str | os.PathLike) -> str:
    """Return "p" and 16 hexadecimal digits that identify the patient of a DICOM file.

    The code is a hash of the patient id and its issuer, or of the study id if there is no patient
    id. Files of one patient have one code.

    With a secret in the environment variable `PIPELINE_PATIENT_KEY` (any text) the hash is keyed
    BLAKE2b: fast, and ids cannot be guessed without the key. Otherwise it is scrypt with a public
    salt, slow by design: trying all 7-digit ids takes days instead of seconds, but whether one
    suspected id is in the data can be checked at once.

    Returns:
        "" if the file is not DICOM, has no id or cannot be read (reading it reports that).
    """
    try:
        data = Path(path).read_bytes()
        if sniff(data[:HEAD_BYTES]) != "DICOM":
            return ""
        from pipeline.images.dicom import load_dataset

        tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
        header = load_dataset(data, tags)
        patient, issuer, study = (str(header.get(tag) or "").strip() for tag in tags)
    except Exception:
        return ""
    if not (patient or study):
        return ""
    text = f"patient\0{issuer}\0{patient}" if patient else f"study\0{study}"
    key = os.environ.get("PIPELINE_PATIENT_KEY", "").encode()
    if not key:
        return _slow_code(text)
    key = hashlib.blake2b(key, digest_size=32).digest()
    return "p" + hashlib.blake2b(text.encode(), key=key, digest_size=8).hexdigest()


@functools.lru_cache(maxsize=2**16)
def _slow_code(text: str) -> str:
    return "p" + hashlib.scrypt(text.encode(), salt=SALT, dklen=8, **COST).hex()
