"""DVC stage: runs of all learners -> cache/<dataset>/compare.parquet; nothing is trained here"""

from pipeline.cli.common import Dataset, Jobs, Project, stage
from pipeline.evaluate.comparison import compare_dataset


def run(dataset: Dataset, jobs: Jobs = -1) -> None:
    """Compare the rows of the study."""
    c = Project()
    compare_dataset(dataset, c.params, c.paths, jobs=jobs)


if __name__ == "__main__":
    stage(run)
