"""DVC stage: images + masks.zarr -> cache/<dataset>/features.zarr (I = E_v(x * m), T = E_t(t))"""

from pipeline.cli.common import Dataset, Project, stage
from pipeline.encode.encode import encode_dataset
from pipeline.engine.options import RunOptions


def run(dataset: Dataset) -> None:
    """Encode what is missing; parameters that changed the features' identity rebuild the store."""
    c = Project()
    c.check_stores()
    c.params.models.clip.check_followed()
    print(encode_dataset(dataset, c.params, c.paths, RunOptions(on_mismatch="rebuild")).summary())


if __name__ == "__main__":
    stage(run)
