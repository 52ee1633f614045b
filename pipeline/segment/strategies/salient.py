"""No prompt: what SAM2 takes for the object when asked nothing (an empty sparse embedding)."""

from pipeline.segment.strategies.base import Strategy


class Salient(Strategy):
    """SAM2 decodes the whole image with no point, box or mask."""

    name = "salient"
