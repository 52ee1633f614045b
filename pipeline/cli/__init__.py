"""The `pipeline` command. Only argument parsing lives here; the work is in the library."""

from pipeline.engine.process import keep_freed_memory

keep_freed_memory()  # before any library starts a thread, which would get an arena of its own

from pipeline.cli.app import main as main  # noqa: E402
