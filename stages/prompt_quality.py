"""DVC stage: images and ground truth -> cache/<dataset>/prompt_quality.parquet"""

from pipeline.cli.common import Dataset, Project, stage
from pipeline.segment.prompt_quality import judged, measure_prompts


def run(dataset: Dataset) -> None:
    """Measure every prompt strategy on the images of the sample that are missing."""
    c = Project()
    c.params.models.sam2.check_followed()
    if any(kind.uses_clip for kind in judged(c.params).values()):
        c.params.models.clip.check_followed()
    print(measure_prompts(dataset, c.params, c.paths).summary())


if __name__ == "__main__":
    stage(run)
