"""A one-way code of the patient, for grouping. The header's own values never leave this file."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from pipeline.images.kinds import HEAD_BYTES, sniff

# Anyone can repeat this key, so short ids can be guessed by trying, if slowly; a secret of one's
# own in PIPELINE_PATIENT_KEY makes the codes useless to others.
DEFAULT_KEY = b"medfocusclip patient grouping v2"
COST = {"n": 2**12, "r": 8, "p": 1}  # of scrypt: 4 MiB and some 30 ms for each patient


def patient_code(path: str | os.PathLike) -> str:
    """Return "p" and 16 hex digits for a DICOM file's patient; "" when there is none to be had.

    Of the patient id with its issuer; the study id stands in for an empty patient id. Files of
    one patient get one code. Never raises for a file that cannot be read: reading it reports that.

    With a secret of one's own in `PIPELINE_PATIENT_KEY` (any text) it is BLAKE2b with that key:
    quick, and nobody without the key can try ids. Without one it is scrypt with a public salt,
    made slow on purpose (some 30 ms and 4 MiB; each patient's code is remembered while the process
    lives, and written nowhere). Then all ids of 7 digits take days of one core to try instead of
    seconds: dear, not impossible, and a single id that somebody suspects is checked at once.
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
    if not key:
        return _slow_code(text)
    key = hashlib.blake2b(key, digest_size=32).digest()
    return "p" + hashlib.blake2b(text.encode(), key=key, digest_size=8).hexdigest()


@functools.lru_cache(maxsize=2**16)
def _slow_code(text: str) -> str:
    return "p" + hashlib.scrypt(text.encode(), salt=DEFAULT_KEY, dklen=8, **COST).hex()
