"""No prompt: SAM2 segments what it takes for the object (an empty sparse embedding)."""

from pipeline.segment.strategies.base import Strategy


class Salient(Strategy):
    """SAM2 decodes the whole image without point, box or mask."""

    name = "salient"
