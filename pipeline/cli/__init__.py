"""The `pipeline` command. Only argument parsing lives here; the work is in the library."""

from pipeline.cli.app import app
from pipeline.cli.running import guarded

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `pipeline` command."""
    guarded(app)
