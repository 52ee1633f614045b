"""A one-way code of the DICOM patient, for grouping. The header's values never leave this file."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from pipeline.images.formats import HEAD_BYTES, sniff

SALT = b"medfocusclip patient grouping v2"  # public: short ids can be guessed, slowly
COST = {"n": 2**12, "r": 8, "p": 1}  # of scrypt: 4 MiB and about 30 ms per patient
TAGS = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]


def patient_code(path: str | os.PathLike) -> str:
    """Return "p" and 16 hexadecimal digits that identify the patient of a DICOM file.

    The code is a hash of the patient id and its issuer, or of the study id if there is no patient
    id. With a secret in the environment variable `PIPELINE_PATIENT_KEY` (any text) it is keyed
    BLAKE2b: ids cannot be guessed without the key. Otherwise it is scrypt with a public salt, slow
    by design: trying all 7-digit ids takes days, but whether one suspected id is in the data can
    be checked at once.

    Returns:
        "" if the file is not DICOM, has no id or cannot be read (reading it reports that).
    """
    try:
        data = Path(path).read_bytes()
        if sniff(data[:HEAD_BYTES]) != "DICOM":
            return ""
        from pipeline.images.dicom import parse

        header = parse(data, TAGS)
        patient, issuer, study = (str(header.get(tag) or "").strip() for tag in TAGS)
    except Exception:
        return ""
    if not (patient or study):
        return ""
    text = f"patient\0{issuer}\0{patient}" if patient else f"study\0{study}"
    return "p" + _hash(text.encode(), os.environ.get("PIPELINE_PATIENT_KEY", "").encode())


@functools.lru_cache(maxsize=2**16)
def _hash(text: bytes, secret: bytes) -> str:
    if not secret:
        return hashlib.scrypt(text, salt=SALT, dklen=8, **COST).hex()
    key = hashlib.blake2b(secret, digest_size=32).digest()
    return hashlib.blake2b(text, key=key, digest_size=8).hexdigest()
