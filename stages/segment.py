"""DVC stage: images -> cache/<dataset>/masks.zarr (m = SAM2(x))"""

from pipeline.cli.common import Dataset, Project, stage
from pipeline.engine.options import RunOptions
from pipeline.segment.segment import segment_dataset
from pipeline.segment.strategies import strategy_class


def run(dataset: Dataset) -> None:
    """Segment what is missing; parameters that changed the masks' identity rebuild the store."""
    c = Project()
    c.check_stores()
    c.params.models.sam2.check_followed()
    if strategy_class(c.params.segment).uses_clip:
        c.params.models.clip.check_followed()
    print(segment_dataset(dataset, c.params, c.paths, RunOptions(on_mismatch="rebuild")).summary())


if __name__ == "__main__":
    stage(run)
