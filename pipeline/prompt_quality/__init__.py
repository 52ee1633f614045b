"""Every prompt strategy against ground truth, on a sample of images: which one finds the region?

Boxes and clicks made from the ground truth are references for these figures. `segment` never
reads anything of this package.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["judge_prompts"]

if TYPE_CHECKING:
    from pipeline.prompt_quality.judge import judge_prompts


def __getattr__(name: str) -> Any:
    # Lazy, so that the sample and the references can be used without loading torch.
    if name == "judge_prompts":
        from pipeline.prompt_quality.judge import judge_prompts

        return judge_prompts
    raise AttributeError(f"module 'pipeline.prompt_quality' has no attribute {name!r}")
