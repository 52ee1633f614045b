"""What can be wrong with the rows of a manifest: every problem at once, with line and remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd
import pandera.pandas as pa

from pipeline.errors import ManifestError

SPLITS = ("", "train", "val", "test")
SHOWN = 100  # problems of one kind that are spelled out; the rest of that kind is counted


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `line` of the file (0 = the whole file), `column`, what, remedy."""

    line: int
    column: str
    what: str
    remedy: str

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "file"
        column = f", {self.column}" if self.column else ""
        return f"{where}{column}: {self.what} - {self.remedy}"


def report_problems(path: Path, problems: list[Problem]) -> ManifestError:
    """Return one error that lists all problems in the order of the file."""
    problems = sorted(problems, key=lambda p: (p.line, p.column))
    shown: dict[tuple[str, str], int] = {}
    listed = []
    for problem in problems:
        kind = (problem.column, problem.remedy)
        shown[kind] = shown.get(kind, 0) + 1
        if shown[kind] <= SHOWN:
            listed.append(f"  {problem}")
    listed += [
        f"  ... and {count - SHOWN} more of this kind ({column or 'rows'}: {remedy})"
        for (column, remedy), count in shown.items()
        if count > SHOWN
    ]
    noun = "problem" if len(problems) == 1 else "problems"
    error = ManifestError("\n".join([f"{len(problems)} {noun}", *listed]), path=path)
    error.problems = problems
    return error


def _inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _box(text: str) -> bool:
    try:
        x0, y0, x1, y1 = (float(value) for value in text.split(","))
    except ValueError:
        return not text
    return 0 <= x0 < x1 and 0 <= y0 < y1  # False for NaN


def _points(text: str) -> bool:
    try:
        for point in text.split(";") if text else ():
            x, y, side = point.split(",")
            if not (0 <= float(x) < float("inf") and 0 <= float(y) < float("inf")):
                return False
            if side.strip() not in ("0", "1"):
                return False
    except ValueError:
        return False
    return True


def _check(test, what: str, remedy: str) -> pa.Check:
    return pa.Check(test, element_wise=True, name=what, error=f"{what}|{remedy}")


def _pattern(pattern: str, what: str, remedy: str) -> pa.Check:
    compiled = re.compile(pattern)
    return _check(lambda text: compiled.fullmatch(text) is not None, what, remedy)


REFRESH = "run `pipeline data refresh`"
SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, _check(bool, "an empty id", "give it one")),
        "path": pa.Column(
            str,
            _check(_inside, "not a path below the data folder", "use a relative path without '..'"),
        ),
        "frame": pa.Column(
            str, _pattern("0|[1-9][0-9]{0,8}", "not a whole number from 0", "0 is the only frame")
        ),
        "label": pa.Column(str, _check(bool, "an empty label", "fill it, or remove the row")),
        "split": pa.Column(
            str, _check(SPLITS.__contains__, "not a split", "use train, val, test or nothing")
        ),
        "sha256": pa.Column(str, _pattern("[0-9a-f]{64}", "not a sha256", REFRESH)),
        "width": pa.Column(str, _pattern("[1-9][0-9]{0,8}", "not a width in pixels", REFRESH)),
        "height": pa.Column(str, _pattern("[1-9][0-9]{0,8}", "not a height in pixels", REFRESH)),
        "mask_area": pa.Column(str, _pattern("[0-9]{0,18}", "not a pixel count", REFRESH)),
        "box": pa.Column(
            str, _check(_box, "not a box", "write x0,y0,x1,y1 in pixels, x0 < x1 and y0 < y1")
        ),
        "points": pa.Column(
            str, _check(_points, "not points", "write x,y,1;x,y,0 (1 inside, 0 outside)")
        ),
        "synthetic": pa.Column(
            str, _check(("0", "1").__contains__, "neither 0 nor 1", "1 marks a phantom")
        ),
    }
)


def find_problems(
    frame: pd.DataFrame, lines: list[int], *, classes: Iterable[str] | None = None
) -> list[Problem]:
    """Check all rows (text columns) and return every problem; `lines` are their line numbers."""
    if frame.empty:
        return [Problem(0, "", "no images", "add some with `pipeline data add`")]
    problems = []
    try:
        SCHEMA.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        for case in errors.failure_cases.itertuples(index=False):
            what, _, remedy = str(case.check).partition("|")
            line = lines[int(case.index)] if case.index is not None else 0
            problems.append(
                Problem(line, str(case.column), f"{what}: {case.failure_case!r}", remedy)
            )
    problems += _duplicates(frame, lines, ["image_id"], "change one of them")
    problems += _duplicates(frame, lines, ["path", "frame"], "keep one of the rows")
    problems += _patients(frame, lines)
    problems += _prompts_outside(frame, lines)
    if classes is not None:
        problems += _unknown_labels(frame, lines, sorted(set(classes)))
    return problems


def _duplicates(
    frame: pd.DataFrame, lines: list[int], columns: list[str], remedy: str
) -> list[Problem]:
    first: dict[tuple, int] = {}
    problems = []
    for line, *key in zip(lines, *(frame[name] for name in columns), strict=True):
        before = first.setdefault(tuple(key), line)
        if before != line:
            name = " and ".join(repr(value) for value in key)
            problems.append(
                Problem(line, " and ".join(columns), f"{name} is on line {before} too", remedy)
            )
    return problems


def _patients(frame: pd.DataFrame, lines: list[int]) -> list[Problem]:
    known = frame.assign(line=lines)[(frame["patient_id"] != "") & (frame["split"] != "")]
    problems = []
    for patient, rows in known.groupby("patient_id"):
        parts = rows.groupby("split")["line"].agg(list)
        if len(parts) > 1:
            where = "; ".join(
                f"{split} (line {', '.join(map(str, found[:5]))}{' ...' if len(found) > 5 else ''})"
                for split, found in parts.items()
            )
            problems.append(
                Problem(
                    int(rows["line"].iloc[0]),
                    "patient_id",
                    f"patient {patient!r} is in {where}",
                    "move the patient to one split, or add again with `--on-straddle drop-train`",
                )
            )
    return problems


def _prompts_outside(frame: pd.DataFrame, lines: list[int]) -> list[Problem]:
    problems = []
    rows = frame[(frame["box"] != "") | (frame["points"] != "")]
    for at, row in zip(rows.index, rows.itertuples(index=False), strict=True):
        try:
            width, height = int(row.width), int(row.height)
            corners = [tuple(map(float, row.box.split(",")))[2:]] if row.box else []
            clicks = [tuple(map(float, p.split(",")[:2])) for p in row.points.split(";") if p]
        except ValueError:
            continue  # listed by the schema already
        for column, places, slack in (("box", corners, 0), ("points", clicks, 1)):
            if any(x > width - slack or y > height - slack for x, y in places):
                problems.append(
                    Problem(
                        lines[at],
                        column,
                        f"{getattr(row, column)} lies outside the image of {width} x {height}",
                        "use pixels of the upright image",
                    )
                )
    return problems


def _unknown_labels(frame: pd.DataFrame, lines: list[int], classes: list[str]) -> list[Problem]:
    problems = []
    for line, label in zip(lines, frame["label"], strict=True):
        if label and label not in classes:
            near = difflib.get_close_matches(label, classes, n=1)
            hint = f"did you mean {near[0]!r}? known" if near else "known"
            problems.append(
                Problem(line, "label", f"unknown label {label!r}", f"{hint}: {', '.join(classes)}")
            )
    return problems
