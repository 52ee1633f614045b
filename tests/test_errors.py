"""Errors say what, where and what to do, and survive the way back from a worker process."""

from __future__ import annotations

import pickle

import pytest

from pipeline import errors
from pipeline.errors import ImageError, PipelineError


@pytest.mark.parametrize("kind", PipelineError.__subclasses__())
def test_every_kind_of_error_survives_pickling(kind: type[PipelineError]) -> None:
    error = pickle.loads(pickle.dumps(kind("cut short", remedy="copy it again", path="a.png")))
    assert type(error) is kind
    assert str(error) == "a.png: cut short - copy it again"


def test_a_newline_in_a_file_name_does_not_break_the_line() -> None:
    assert "\n" not in str(ImageError("cut short", path="a\nb.png"))


def test_exit_codes_tell_bad_input_from_too_many_failures() -> None:
    assert (errors.ManifestError.exit_code, errors.StageFailed.exit_code) == (2, 3)
