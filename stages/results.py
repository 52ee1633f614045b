"""DVC stage of results/dvc.yaml: what the other stages made -> results/*.md, results/*.csv"""

from pipeline.cli.options import context
from pipeline.cli.running import stage
from pipeline.report import write_results


def run() -> None:
    """Write the result pages of all datasets of params.yaml."""
    c = context()
    for path in write_results(c.params, c.paths, list(c.params.datasets)):
        print(path)


if __name__ == "__main__":
    stage(run)
