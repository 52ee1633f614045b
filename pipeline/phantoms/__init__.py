"""Phantoms: synthetic images of the four tasks, with ground-truth masks and patients."""

from pipeline.phantoms.known_answer import make_known_answer
from pipeline.phantoms.make import make_sample

__all__ = ["make_known_answer", "make_sample"]
