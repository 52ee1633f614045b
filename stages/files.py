"""DVC stage: images and ground truth -> cache/<dataset>/files.json, a digest of their bytes"""

from pipeline.cli.common import Dataset, Project, stage
from pipeline.manifest import digest_files


def run(dataset: Dataset) -> None:
    """See by size and times, then by bytes, whether files have changed under their names."""
    print(digest_files(dataset, Project().paths))


if __name__ == "__main__":
    stage(run)
