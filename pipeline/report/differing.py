"""Which parameters of the runs behind the figures are others than those that a page prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.config import Params
from pipeline.report.inputs import STAGES, DatasetInputs


def differing(datasets: Sequence[DatasetInputs], params: Params) -> list[str]:
    """Return a line each: "differs: train.lambda 0.4 in the run of brain".

    Of each stage the record of its last run is compared, as far as it holds parameters: `train`
    records none of `splits`.
    """
    found: dict[str, list[str]] = {}
    for one in datasets:
        for stage in STAGES:
            held = one.records.get(stage, {}).get("parameters") or {}
            for name, value in _others(stage, held, params).items():
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                where = "" if name != "profile" else f"{stage} "
                found.setdefault(f"{name} {shown} in the {where}run of", []).append(one.name)
    return [f"differs: {what} {', '.join(names)}" for what, names in found.items()]


def _others(stage: str, held: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the parameters that a record holds another value of, by their dotted names."""
    section = getattr(params, stage)
    held = held.get("train", held) if stage == "train" else held
    now = section.model_dump(mode="json")
    then = held[stage] if isinstance(held.get(stage), dict) else held
    others = {
        f"{stage}.{field.alias or name}": then[name]
        for name, field in type(section).model_fields.items()
        if name in then and then[name] != now[name]
    }
    if held.get("profile", params.profile) != params.profile:
        others["profile"] = held["profile"]
    return others
