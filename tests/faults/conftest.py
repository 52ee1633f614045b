"""Python code that a command's process runs first, so that the system fails it in some way; and
whether two projects hold the same results."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline import open_features, open_masks
from pipeline.store import verify_store
from tests.site import STORES, Site

DROP_OVERRIDE = """
import ctypes, os
if os.geteuid() == 0:  # root gives up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110
    assert libc.capset(header, sets) == 0
"""

OWN_MOUNTS = """
import ctypes, subprocess
assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
def shell(script):
    subprocess.run(script, shell=True, check=True)
shell("mount --make-rprivate /")
"""


def at_rename(number: int, signal: str) -> str:
    """Return code that sends a signal to its own process just before it puts the n-th output in
    place. Every output is replaced by a rename; run records are not counted."""
    return f"""
import os, signal, sys
left = [{number}]
def hook(event, arguments):
    if event == "os.rename":
        target = os.fspath(arguments[1])
        if ("cache" in target or "report" in target) and "records" not in target:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.{signal})
sys.addaudithook(hook)
"""


@pytest.fixture(scope="session")
def no_override() -> str:
    """Code after which file modes count for root too."""
    if sys.platform != "linux":
        pytest.skip("needs Linux capabilities")
    return DROP_OVERRIDE


@pytest.fixture(scope="session")
def own_mounts() -> str:
    """Code after which `shell("mount ...")` changes the mounts of its process only."""
    trial = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    if sys.platform != "linux" or subprocess.run(trial, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    return OWN_MOUNTS


def rows(site: Site, stage: str) -> dict[str, list[np.ndarray]]:
    """Return image id -> what a store holds of it: [mask] or one vector for each view."""
    path = site.root / STORES[stage]
    assert verify_store(path).ok
    if stage == "segment":
        masks = open_masks(path)
        return {image_id: [masks[image_id]] for image_id in masks}
    features = open_features(path)
    ids = list(features)
    views = [features.image_features(view, ids) for view in features.views]
    return {image_id: list(vectors) for image_id, *vectors in zip(ids, *views, strict=True)}


def assert_same(stage: str, site: Site, other: Site) -> None:
    """Check that a stage wrote the same: bit for bit, features to 1e-5 (batches round them)."""
    if stage not in STORES:
        assert site.outputs(stage) == other.outputs(stage)
        return
    one, two = rows(site, stage), rows(other, stage)
    assert one.keys() == two.keys()
    for image_id, values in one.items():
        for a, b in zip(values, two[image_id], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if stage == "encode" else 0)
