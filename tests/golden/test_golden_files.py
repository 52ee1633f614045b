"""165 small drawn files of every format, with and without faults, are decoded as they were.

`files.tar.xz` holds the files, named by their hash; `files.json` the hash of what `read_image` and
`read_mask` gave for each frame, or the name of the error. They were collected from the files that
the tests of the reader draw.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pipeline.errors import ImageError
from pipeline.images import read_image, read_mask

from .make import array_hash

GOLDEN = Path(__file__).resolve().parent
READERS = {"image": read_image, "mask": read_mask}


@pytest.mark.promise("Every file is decoded to the same pixels as by earlier versions.")
@pytest.mark.filterwarnings("ignore")
def test_drawn_files_of_every_format_are_decoded_as_before(tmp_path: Path) -> None:
    with tarfile.open(GOLDEN / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    frozen = json.loads((GOLDEN / "files.json").read_text(encoding="utf-8"))
    now = {}
    for key in frozen:
        name, reader, frame = key.split()
        try:
            now[key] = array_hash(READERS[reader](tmp_path / name, int(frame)))
        except ImageError as error:
            now[key] = type(error).__name__
    assert len(list(tmp_path.iterdir())) == 165
    assert {k: (v, now[k]) for k, v in frozen.items() if v != now[k]} == {}
