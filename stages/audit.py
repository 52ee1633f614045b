"""DVC stage: data_manifests/<dataset>.csv + images -> cache/<dataset>/audit.parquet"""

from pipeline.audit import audit_dataset, audit_text
from pipeline.cli.common import Dataset, Project, stage


def run(dataset: Dataset) -> None:
    """Find the copies among a dataset's images."""
    c = Project()
    summary = audit_dataset(dataset, c.params, c.paths)
    print(audit_text(summary, str(c.paths.audit_pairs(dataset))))


if __name__ == "__main__":
    stage(run)
