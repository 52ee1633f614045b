"""DVC stage: features.zarr + splits -> cache/<dataset>/runs/<learner>/"""

from typing import Annotated

import typer

from pipeline.cli.common import Dataset, Jobs, Project, stage
from pipeline.learners.train import train_dataset


def run(
    dataset: Dataset,
    learner: Annotated[str, typer.Option(help="Name of a learner.")],
    jobs: Jobs = -1,
) -> None:
    """Fit a learner of params.yaml and predict the test images."""
    c = Project()
    for record in train_dataset(dataset, c.params, c.paths, [learner], jobs=jobs):
        print(record.summary())


if __name__ == "__main__":
    stage(run)
