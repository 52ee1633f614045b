"""Phantoms: synthetic images of the four tasks, with ground-truth masks and patients."""

from pipeline.phantoms.make import make_known_answer as make_known_answer
from pipeline.phantoms.make import make_sample as make_sample
