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
    """Return counts, and the names of copies in both train and test or of several labels.

    Args:
        summary: of `audit_dataset`; its lists are cut at `SHOWN`.
        pairs: the file that lists all pairs.
    """
    leaks = summary["test_images_with_copy_in_train"]
    chain = summary["joined_by_chain"]
    counts = ", ".join(f"{summary['pairs'][kind]} {words}" for kind, words in KINDS.items())
    lines = [
        f"{summary['dataset']}: {summary['images']} images, {summary['test_images']} of them test",
        f"pairs of copies: {counts}",
    ]
    if summary["test_images"]:
        named = [_pair(p, p["test"], p["train"], "test", "train") for p in summary["leaks"]]
        lines += ["test images with a copy in train or val:"]
        lines += [f"  {leaks[flag]} {words}" for flag, words in FLAGS.items()]
        lines += _listed(named, leaks["any"] - chain, f"; all pairs: {pairs}")
    else:
        lines.append(
            "no test part yet: `train` draws one for each seed and keeps copies together; "
            f"all pairs: {pairs}"
        )
    if chain:
        lines.append(
            f"{chain} of them are joined to train or val by a chain of copies and are in no such "
            "pair: they are too many to compare each with each"
        )
    for column, facts in summary["known_groups"].items():
        if both := facts["in_train_and_test"]:
            lines.append(
                f"{both} of {facts['known']} {KNOWN[column]} are in test and in train or val "
                f"({facts['test_images']} test images)"
            )
    if total := summary["label_conflict_groups"]:
        conflicts = [
            f"{', '.join(map(printable, c['images']))}: {', '.join(c['labels'])}"
            for c in summary["label_conflicts"]
        ]
        lines.append(f"{total} groups of copies with several labels:")
        lines += _listed(conflicts, total, "; the others: audit.parquet, label_conflict")
    lines += _unreadable(summary["unreadable"], "images")
    if blank := summary["blank"]:
        lines.append(f"{len(blank)} blank images are compared by their bytes only:")
        lines += _listed([printable(name) for name in blank], len(blank))
    return "\n".join(lines)


def across_text(other: str, pairs: list[dict[str, Any]], unreadable: dict[str, str]) -> str:
    """Return the copies that another dataset has, and its images that cannot be read, by name."""
    named = [_pair(p, p["image_id_a"], f"{other}: {p['image_id_b']}", "a", "b") for p in pairs]
    lines = [f"{len(pairs)} pairs of copies across it and {other}", *_listed(named, len(pairs))]
    return "\n".join(lines + _unreadable(unreadable, f"images of {other}"))


def _pair(pair: dict[str, Any], left: str, right: str, a: str, b: str) -> str:
    a, b = pair[f"label_{a}"], pair[f"label_{b}"]
    labels = a if a == b else f"labelled {a} and {b}"
    kind = f"{KINDS[pair['kind']]}, {pair['score']:.3f}; {labels}"
    return f"{printable(left)} = {printable(right)} ({kind})"


def _unreadable(reasons: dict[str, str], what: str) -> list[str]:
    if not reasons:
        return []
    named = [f"{printable(name)}: {why}" for name, why in reasons.items()]
    return [f"{len(named)} {what} cannot be read:", *_listed(named, len(named))]


def _listed(lines: list[str], total: int, rest: str = "") -> list[str]:
    shown = [f"  {line}" for line in lines[:SHOWN]]
    return shown + ([f"  and {total - len(shown)} more{rest}"] if total > len(shown) else [])
