"""DVC stage: data_manifests/<dataset>.csv + images -> cache/<dataset>/audit.parquet"""

from pipeline.audit import audit_dataset
from pipeline.cli.options import Dataset, context
from pipeline.cli.running import stage


def run(dataset: Dataset) -> None:
    """Find the copies among a dataset's images."""
    c = context()
    audit_dataset(dataset, c.params, c.paths)


if __name__ == "__main__":
    stage(run)
