"""What two identities differ in, in words."""

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.store.items import canonical, identity_diff


def test_a_changed_an_absent_and_a_new_choice_are_each_named_by_their_dotted_key():
    stored = {"encode": {"fill": "black", "views": ("whole",)}, "old": 1}
    wanted = {"encode": {"views": ["whole"], "fill": "mean"}, "clip": {"sha256": {"a": ["b"]}}}
    assert identity_diff(stored, wanted) == [
        'clip.sha256.a: absent in the store, ["b"] now',
        'encode.fill: "black" in the store, "mean" now',
        "old: 1 in the store, absent now",
    ]
    assert identity_diff(stored, canonical(stored)) == []


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(StoreError, match="JSON"):
        canonical({"a": value})
