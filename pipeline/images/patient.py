"""A one-way code of the patient, for grouping. The header's own values never leave this file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pipeline.images.kinds import HEAD_BYTES, sniff

# Anyone can repeat this key, so short ids can be guessed by trying; a secret of one's own in
# PIPELINE_PATIENT_KEY makes the codes useless to others.
DEFAULT_KEY = b"medfocusclip patient grouping v1"


def patient_code(path: str | os.PathLike) -> str:
    """Return "p" and 16 hex digits for a DICOM file's patient; "" when there is none to be had.

    BLAKE2b of the patient id with its issuer, keyed with `PIPELINE_PATIENT_KEY` (any text) or a
    fixed public key; the study id stands in for an empty patient id. Files of one patient get
    one code. Never raises for a file that cannot be read: reading it reports that.
    """
    try:
        data = Path(path).read_bytes()
        if sniff(data[:HEAD_BYTES]) != "DICOM":
            return ""
        from pipeline.images.dicom import load_dataset

        tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"]
        header = load_dataset(data, tags)
        identity = [str(header.get(tag) or "").strip() for tag in tags]
    except Exception:
        return ""
    patient, issuer, study = identity
    if not (patient or study):
        return ""
    text = f"patient\0{issuer}\0{patient}" if patient else f"study\0{study}"
    key = os.environ.get("PIPELINE_PATIENT_KEY", "").encode()
    key = hashlib.blake2b(key, digest_size=32).digest() if key else DEFAULT_KEY
    return "p" + hashlib.blake2b(text.encode(), key=key, digest_size=8).hexdigest()
