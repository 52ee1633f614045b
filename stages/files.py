"""DVC stage: images and ground truth -> cache/<dataset>/files.json, digests of their bytes.

Files that changed under their names are seen by size and times, then by bytes. DVC always runs this
stage, so it imports little: no pandas, no typer.
"""

import argparse
import sys
from pathlib import Path

import yaml

from pipeline.errors import PipelineError
from pipeline.io import FileHashes, digest_files
from pipeline.paths import Paths


def run(dataset: str) -> None:
    """Digest the files of a dataset."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8")) or {}
    paths = Paths(data_root=params.get("data_root", Paths.data_root))
    hashes = FileHashes(paths.hashes(dataset))
    digest_files(paths.manifest(dataset), paths.data(dataset), paths.files(dataset), hashes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    try:
        run(parser.parse_args().dataset)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
