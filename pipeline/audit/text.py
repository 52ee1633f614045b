"""The leak audit in words, for `pipeline audit` and `pipeline data check`."""

from __future__ import annotations

from typing import Any

from pipeline.errors import printable

SHOWN = 20
KINDS = {"byte": "same bytes", "near": "near-copy", "mirror": "mirrored", "turn": "turned"}
FLAGS = {
    "byte_identical": "with the same bytes",
    "near": "near-copies too (re-saved, resized, brighter, other contrast, shifted)",
    "near_or_mirrored": "mirrored ones too",
    "any": "turned ones too",
}
KNOWN = {"patient_id": "patients", "group": "known groups"}


def audit_text(summary: dict[str, Any], pairs: str) -> str:
    """Return counts, and the names of what straddles the split or has several labels.

    Args:
        summary: of `audit_dataset`; its lists are cut at `SHOWN`.
        pairs: the file that lists all pairs.
    """
    leaks = summary["test_images_with_copy_in_train"]
    counts = ", ".join(f"{summary['pairs'][kind]} {words}" for kind, words in KINDS.items())
    lines = [
        f"{summary['dataset']}: {summary['images']} images, {summary['test_images']} of them test",
        f"pairs of copies: {counts}",
    ]
    if summary["test_images"]:
        total = leaks["any"] - summary["joined_by_chain"]
        lines += [
            "test images with a copy in train or val:",
            *(f"  {leaks[flag]} {words}" for flag, words in FLAGS.items()),
            *_listed(map(_pair, summary["straddling"]), total, f"all pairs: {pairs}"),
        ]
    else:
        lines.append(
            "no test part yet: `train` draws one for each seed and keeps copies together; "
            f"all pairs: {pairs}"
        )
    if summary["joined_by_chain"]:
        lines.append(
            f"{summary['joined_by_chain']} of them are joined to train or val by a chain of copies "
            "and are in no such pair: they are too many to compare each with each"
        )
    for column, facts in summary["known_groups"].items():
        if facts["straddling"]:
            lines.append(
                f"{facts['straddling']} of {facts['known']} {KNOWN[column]} are in test and in "
                f"train or val ({facts['test_images']} test images)"
            )
    if total := summary["label_conflict_groups"]:
        conflicts = [
            f"{', '.join(map(printable, c['images']))}: {', '.join(c['labels'])}"
            for c in summary["label_conflicts"]
        ]
        lines.append(f"{total} groups of copies with several labels:")
        lines += _listed(conflicts, total, "the others: audit.parquet, label_conflict")
    lines += _unreadable(summary["unreadable"], "images")
    if blank := summary["blank"]:
        lines.append(f"{len(blank)} blank images are compared by their bytes only:")
        lines += _listed(map(printable, blank), len(blank))
    return "\n".join(lines)


def across_text(other: str, pairs: list[dict[str, Any]], unreadable: dict[str, str]) -> str:
    """Return the copies that another dataset has, and its images that cannot be read, by name."""
    lines = [
        f"{printable(p['image_id_a'])} = {other}: {printable(p['image_id_b'])} "
        f"({_kind(p, p['label_a'], p['label_b'])})"
        for p in pairs
    ]
    return "\n".join(
        [
            f"{len(pairs)} pairs of copies across it and {other}",
            *_listed(lines, len(pairs)),
            *_unreadable(unreadable, f"images of {other}"),
        ]
    )


def _pair(pair: dict[str, Any]) -> str:
    kind = _kind(pair, pair["label_test"], pair["label_train"])
    return f"{printable(pair['test'])} = {printable(pair['train'])} ({kind})"


def _kind(pair: dict[str, Any], a: str, b: str) -> str:
    labels = a if a == b else f"labelled {a} and {b}"
    return f"{KINDS[pair['kind']]}, {pair['score']:.3f}; {labels}"


def _unreadable(reasons: dict[str, str], what: str) -> list[str]:
    if not reasons:
        return []
    named = [f"{printable(name)}: {why}" for name, why in reasons.items()]
    return [f"{len(named)} {what} cannot be read:", *_listed(named, len(named))]


def _listed(lines, total: int, rest: str = "") -> list[str]:
    shown = [f"  {line}" for line in lines][:SHOWN]
    if total > len(shown):
        shown.append(f"  and {total - len(shown)} more{f'; {rest}' if rest else ''}")
    return shown
