"""DVC stage: images and ground truth -> cache/<dataset>/files.json, digests of their bytes.

Files that changed under their names are seen by size and times, then by bytes. DVC always runs this
stage, so it imports little: no pandas, no typer, no YAML.
"""

import argparse
import sys

from pipeline.errors import PipelineError
from pipeline.io import FileHashes, digest_files
from pipeline.paths import Paths


def run(dataset: str, data_root: str = Paths.data_root) -> None:
    """Digest the files of a dataset."""
    paths = Paths(data_root=data_root)
    hashes = FileHashes(paths.hashes(dataset))
    digest_files(paths.manifest(dataset), paths.data(dataset), paths.files(dataset), hashes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-root", default=Paths.data_root)
    try:
        run(**vars(parser.parse_args()))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
