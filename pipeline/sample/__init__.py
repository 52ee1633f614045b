"""Phantoms: procedurally made images of the four tasks, with ground truth and patients."""

from pipeline.sample.known_answer import make_known_answer
from pipeline.sample.make import make_sample

__all__ = ["make_known_answer", "make_sample"]
