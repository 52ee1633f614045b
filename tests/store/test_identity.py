"""What two identities differ in, in words."""

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.store.identity import canonical, identity_diff, identity_hash


def test_a_changed_an_absent_and_a_new_choice_are_each_named_by_their_dotted_key():
    stored = {"encode": {"fill": "black", "views": ["whole"]}, "old": 1}
    wanted = {"encode": {"fill": "mean", "views": ["whole"]}, "clip": {"sha256": "ab"}}
    assert identity_diff(stored, wanted) == [
        'clip: absent in the store, {"sha256": "ab"} now',
        'encode.fill: "black" in the store, "mean" now',
        "old: 1 in the store, absent now",
    ]


def test_what_one_side_lacks_as_a_whole_is_one_line():
    model = {"name": "sam2", "fingerprint": {"config": {"a": 1, "b": {"c": [2]}}, "sha256": "ab"}}
    for none in ({}, {"model": None}, {"model": {}}):
        for before, now in ((none, {"model": model}), ({"model": model}, none)):
            (line,) = identity_diff({**before, "prompt": "full"}, {**now, "prompt": "full"})
            assert line.startswith("model: ") and len(line) < 150
    other = {"name": "sam2", "fingerprint": {"sha256": "cd"}}
    lines = identity_diff({"model": model}, {"model": other})
    assert [line.split(": ")[0] for line in lines] == [
        "model.fingerprint.config",
        "model.fingerprint.sha256",
    ]


def test_key_order_and_tuples_do_not_make_another_identity():
    one, two = {"a": (1, 2), "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": [1, 2]}
    assert identity_hash(one) == identity_hash(two)
    assert identity_diff(one, two) == []


@pytest.mark.parametrize("value", [1, 1.5, "1", True, None, [1], {"x": 1}])
def test_values_of_different_type_are_different_identities(value):
    others = [v for v in (1, 1.5, "1", None, [1], {"x": 1}) if v is not value and v != value]
    assert all(identity_hash({"a": value}) != identity_hash({"a": other}) for other in others)


@pytest.mark.parametrize("value", [float("nan"), np.zeros(2), object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(StoreError, match="JSON"):
        canonical({"a": value})
