"""DVC stage: features.zarr + splits -> cache/<dataset>/heads/, predictions.parquet"""

from pipeline.cli.options import Dataset, Jobs, context
from pipeline.cli.running import stage
from pipeline.train import train_dataset


def run(dataset: Dataset, jobs: Jobs = -1) -> None:
    """Fit every head of params.yaml and predict the test part."""
    c = context()
    print(train_dataset(dataset, c.params, c.paths, jobs=jobs).summary())


if __name__ == "__main__":
    stage(run)
