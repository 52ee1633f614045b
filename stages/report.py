"""DVC stage: what the other stages made -> report/index.html"""

from pipeline.cli.common import Project, stage
from pipeline.report.build import build_report


def run() -> None:
    """Write the report of all datasets of params.yaml."""
    c = Project()
    print(build_report(c.params, c.paths, list(c.params.datasets)))


if __name__ == "__main__":
    stage(run)
