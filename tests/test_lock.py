"""One writer at a time: a running holder is named, a killed one does not block."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from pipeline.errors import DiskError, StoreError
from pipeline.io import ProcessLock

HOLD = """
import sys, time
from pipeline.io import ProcessLock
lock = ProcessLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, repo):
    """Another process that holds the lock."""
    path = tmp_path / "masks.zarr.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=repo
    )
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()
    process.stdout.close()


def take(path):
    """Take and release a lock."""
    with ProcessLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


@pytest.mark.promise(
    "A store has one writer at a time; a second one is refused and names the holder."
)
def test_a_live_writer_is_named_in_one_line_with_host_and_pid(holder):
    path, process = holder
    os.utime(path, (4e9, 4e9))  # as after a clock set back
    process.send_signal(signal.SIGSTOP)  # stopped, and alive
    with pytest.raises(StoreError) as caught:
        ProcessLock(path).acquire()
    assert str(process.pid) in str(caught.value) and socket.gethostname() in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.remedy
    assert f"written by process {process.pid}" in ProcessLock(path).describe()


@pytest.mark.promise("The lock of a killed writer blocks nobody.")
def test_a_killed_writers_lock_is_taken_over_within_seconds(holder):
    path, process = holder
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still listed
    text = path.read_text()
    assert f"process {process.pid} has ended" in ProcessLock(path).describe()
    assert path.read_text() == text
    begin = time.monotonic()
    take(path)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "HERE", "pid": "x"}'])
def test_a_lock_file_cut_while_being_written_is_taken_over(tmp_path, text):
    path = tmp_path / "x.lock"
    path.write_text(text.replace("HERE", socket.gethostname()))
    take(path)


def test_another_hosts_lock_cannot_be_judged_and_the_remedy_says_what_to_do(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text(json.dumps({"host": "node-17", "pid": 4242, "command": "x"}))
    with pytest.raises(StoreError, match="4242 on node-17") as caught:
        ProcessLock(path).acquire()
    assert "node-17" in caught.value.remedy and "delete" in caught.value.remedy
    path.unlink()
    take(path)


@pytest.mark.parametrize(
    ("function", "number", "remedy"),
    [
        ("fcntl.flock", errno.ENOLCK, "another file system"),
        ("pathlib.Path.write_text", errno.ENOSPC, "free some space"),
    ],
)
def test_no_locks_and_a_full_disk_are_named(tmp_path, monkeypatch, function, number, remedy):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    lock = ProcessLock(tmp_path / "x.lock")
    with monkeypatch.context() as patch, pytest.raises(DiskError, match="cannot write") as caught:
        patch.setattr(function, fails)
        lock.acquire()
    assert remedy in caught.value.remedy
    take(lock.path)
