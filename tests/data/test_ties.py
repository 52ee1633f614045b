"""What the manifest or the audit ties together is in one part, told by their own columns."""

from __future__ import annotations

import pytest

from pipeline.config import SplitsParams
from pipeline.splits import plan_splits
from tests.data.split_tables import audit_of, table


@pytest.mark.parametrize("tie", ("patients", "groups", "copies"))
def test_images_of_one_patient_group_or_picture_are_never_in_two_parts(tie):
    names = [f"unit {i // 3}" for i in range(90)]
    labels = ["ab"[i // 3 % 2] for i in range(90)]
    frame = table(labels, **({} if tie == "copies" else {tie: names}))
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
