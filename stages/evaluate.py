"""DVC stage: predictions.parquet + masks.zarr -> cache/<dataset>/metrics.parquet, plots/"""

from pipeline.cli.common import Dataset, Jobs, Project, stage
from pipeline.evaluate import evaluate_dataset


def run(dataset: Dataset, jobs: Jobs = -1) -> None:
    """Compute the metrics with their intervals, and the masks against ground truth."""
    c = Project()
    evaluate_dataset(dataset, c.params, c.paths, jobs=jobs)


if __name__ == "__main__":
    stage(run)
