"""DVC stages of results/dvc.yaml: tables of evaluate -> results/README.md, figure and CSV files"""

from typing import Annotated

import typer

from pipeline.cli.common import Project, stage
from pipeline.errors import PipelineError
from pipeline.report.results import write_external, write_readme, write_tables


def run(
    dataset: Annotated[
        str | None, typer.Option(help="Default: README.md and the figure, of all.")
    ] = None,
    external: Annotated[
        str | None, typer.Option(help="Write external_NAME.csv of a published split instead.")
    ] = None,
) -> None:
    """Write the CSV files of a dataset, or the README and figure of all of params.yaml."""
    c = Project()
    if dataset and external:
        written = [write_external(c.params, c.paths, dataset, external)]
    elif dataset:
        written = write_tables(c.params, c.paths, dataset)
        if not written:
            remedy = f"run `pipeline evaluate --dataset {dataset}`"
            raise PipelineError(f"{dataset} has not been evaluated", remedy=remedy)
    else:
        written = write_readme(c.params, c.paths, list(c.params.datasets))
    for path in written:
        print(path)


if __name__ == "__main__":
    stage(run)
