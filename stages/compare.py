"""DVC stage: runs of all learners -> cache/<dataset>/compare.parquet; nothing is trained here"""

from pipeline.cli.common import Dataset, Project, stage
from pipeline.evaluate.comparison import compare_dataset


def run(dataset: Dataset) -> None:
    """Compare the rows of the study."""
    c = Project()
    compare_dataset(dataset, c.params, c.paths)


if __name__ == "__main__":
    stage(run)
