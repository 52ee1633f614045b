"""DVC stage: images and ground truth -> cache/<dataset>/prompt_quality.parquet"""

from pipeline.cli.options import Dataset, context
from pipeline.cli.running import stage
from pipeline.prompt_quality import judge_prompts


def run(dataset: Dataset) -> None:
    """Judge what is missing of the sample, with every prompt strategy."""
    c = context()
    print(judge_prompts(dataset, c.params, c.paths).summary())


if __name__ == "__main__":
    stage(run)
