"""Heads: what turns frozen features into class probabilities. They never see pixels."""

from pipeline.heads.base import DivergedError, Head
from pipeline.heads.registry import get_head, head_names, make_head, register
from pipeline.heads.saved import load_head, load_heads, save_heads

__all__ = [
    "DivergedError",
    "Head",
    "get_head",
    "head_names",
    "load_head",
    "load_heads",
    "make_head",
    "register",
    "save_heads",
]
