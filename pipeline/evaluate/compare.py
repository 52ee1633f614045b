"""Where `verdict` was."""

from pipeline.evaluate.scores import verdict  # noqa: F401
