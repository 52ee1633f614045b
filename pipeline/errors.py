"""Errors a user can act on: what happened, which file, what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike


def printable(name: str | PathLike) -> str:
    """Return a file name for a message: a newline or another control character is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))


def shown(names: Iterable[str]) -> str:
    """Return the first names of a list, for a message."""
    names = list(names)
    return ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")


class PipelineError(Exception):
    """An error with a remedy. The command line prints it in plain words and exits with `exit_code`.

    Args:
        message: what is wrong, in one sentence.
        remedy: what the user can do about it.
        path: the file or folder concerned.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str = "", path: str | PathLike | None = None):
        self.message = message
        self.remedy = remedy
        self.path = path
        super().__init__(message)  # what is pickled with the attributes

    @property
    def with_remedy(self) -> str:
        """What is wrong and the remedy, for a line that names the file already."""
        return f"{self.message} - {self.remedy}" if self.remedy else self.message

    def __str__(self) -> str:
        text = self.with_remedy
        return text if self.path is None else f"{printable(self.path)}: {text}"


def reason_of(error: Exception) -> str:
    """Return in one line why an image failed: the words of our own errors, else the kind too."""
    text = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
    return " ".join(text.encode("utf-8", "replace").decode().split())


class ConfigError(PipelineError):
    """params.yaml or a command-line option is not usable."""


class ManifestError(PipelineError):
    """A manifest, or the folder, table or zip it is made from, is not usable."""


class ImageError(PipelineError):
    """One image cannot be read. It fails its own row; the rest of a run goes on."""


class ModelError(PipelineError):
    """A checkpoint or a model configuration cannot be used."""


class StoreError(PipelineError):
    """A mask or feature store is missing, damaged, locked or of another identity."""


class DiskError(PipelineError):
    """A file cannot be written: a full disk, a folder that is read-only, a quota."""


class RemoteError(PipelineError):
    """A server of files does not answer or refuses, which every file there would meet."""


class StageFailed(PipelineError):
    """A stage ran to its end, but more images failed than `max_failed` allows."""

    exit_code = 3
