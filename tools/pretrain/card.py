"""Model cards from templates, filled with measured values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipeline.io import atomic_write_text
from tools.pretrain.evaluate import ELLIPSE, interval

TEMPLATES = Path(__file__).parent / "templates"
Measured = dict[str, dict[str, np.ndarray]]


def summarise(measured: Measured) -> dict[str, Any]:
    """Summarise Dice values for a card, JSON-able.

    Args:
        measured: {set: {prompt: float (n,)}} of `evaluate.measure`.

    Returns:
        {set: {"n": n, "prompts": {prompt: {"mean", "low", "high"[, "over_floor": [mean, low,
        high], "verdict"]}}}}; the interval over the floor is that of the paired differences.
    """
    result: dict[str, Any] = {}
    for group, by in measured.items():
        floor, prompts = by[ELLIPSE], {}
        for name, values in by.items():
            low, high = interval(values)
            entry: dict[str, Any] = {"mean": float(values.mean()), "low": low, "high": high}
            if name != ELLIPSE:
                gain = values - floor
                less, more = interval(gain)
                entry["over_floor"] = [float(gain.mean()), less, more]
                entry["verdict"] = "beats" if less > 0 else "below" if more < 0 else "level with"
            prompts[name] = entry
        result[group] = {"n": len(floor), "prompts": prompts}
    return result


def table(summary: dict[str, Any]) -> str:
    """Return a Markdown table of mean and 95 % interval: a row per prompt, a column per dataset."""
    groups = list(summary)
    names = list(dict.fromkeys(n for g in groups for n in summary[g]["prompts"]))
    lines = [
        "| prompt | " + " | ".join(f"{g} (n = {summary[g]['n']})" for g in groups) + " |",
        "|---" * (len(groups) + 1) + "|",
    ]
    for name in names:
        cells = [
            f"{e['mean']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
            if (e := summary[g]["prompts"].get(name))
            else ""
            for g in groups
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(summary: dict[str, Any]) -> str:
    """Return a Markdown list: each prompt and dataset compared with the ellipse."""
    lines = []
    names = list(dict.fromkeys(n for s in summary.values() for n in s["prompts"]))
    for name in names:
        if name == ELLIPSE:
            continue
        parts = []
        for group, entry in summary.items():
            if name in entry["prompts"]:
                e = entry["prompts"][name]
                mean, low, high = e["over_floor"]
                parts.append(f"{group} {e['verdict']} ({mean:+.2f} [{low:+.2f}, {high:+.2f}])")
        lines.append(f"- {name}: " + "; ".join(parts))
    return "\n".join(lines)


def write_card(name: str, path: Path, facts: dict[str, Any]) -> None:
    """Fill a card's template.

    Args:
        name: "sam2-micro" or "clip-micro".
        path: the card, Markdown, replaced atomically.
        facts: values of the template; a missing one is an error.
    """
    source = (TEMPLATES / f"{name}.md.j2").read_text("utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(source)
    atomic_write_text(path, template.render(**facts, table=table, verdicts=verdicts))
