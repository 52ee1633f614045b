"""What the manifest or the audit ties together is in one part, told by their own columns."""

from __future__ import annotations

import pytest

from pipeline.config import SplitsParams
from pipeline.splits import plan, plan_splits
from tests.data.split_tables import audit_of, table


@pytest.mark.parametrize("tie", ("patients", "groups", "copies", "files"))
def test_images_of_one_patient_group_picture_or_file_are_never_in_two_parts(tie):
    names = [f"unit {i // 3}" for i in range(90)]
    labels = ["ab"[i // 3 % 2] for i in range(90)]
    frame = table(labels, **({tie: names} if tie in ("patients", "groups") else {}))
    if tie == "files":  # the slices of 30 volumes
        frame["path"] = [f"{name}.nii" for name in names]
        frame["frame"] = [str(i % 3) for i in range(90)]
    audit = audit_of(frame, names if tie == "copies" else [""] * 90)
    unit = dict(zip(frame["image_id"], names, strict=True))
    for on_leak in ("warn", "regroup"):
        plan = plan_splits(frame, SplitsParams(on_leak=on_leak), audit)
        for protocol in ("official", "grouped"):
            for fraction in (0.2, 1.0):
                split = plan.get(protocol, 0, fraction)
                parts = [{unit[i] for i in ids} for ids in (split.train, split.val, split.test)]
                assert all(parts)
                assert sum(map(len, parts)) == len(set.union(*parts))


def test_the_file_as_a_tie_changes_no_split_of_images_in_files_of_their_own(monkeypatch):
    frame = table("ab" * 40, patients=[f"p{i // 4}" if i < 40 else "" for i in range(80)])

    def splits():
        made = plan_splits(frame, SplitsParams())
        chosen = [made.get(protocol, seed, 0.2) for protocol in made.protocols for seed in (0, 1)]
        return [[list(part) for part in vars(split).values()] for split in chosen]

    now = splits()
    monkeypatch.setattr(plan, "TIES", ("patient_id", "group", "copy_group"))
    assert now == splits() and len(now) == 4
