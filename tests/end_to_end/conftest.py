"""A whole project in a temporary folder, built once by the real commands; each test gets a copy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests import warm

SMALL = {
    "datasets": ["breast", "covid"],
    "encode": {"views": ["whole", "masked", "oracle", "random"]},
    "splits": {"fractions": [0.2, 1.0], "folds": 2},
    "train": {
        "seeds": [0, 1],
        "views": {"official": ["whole", "masked"], "ground_truth": ["masked", "oracle"]},
        "epochs": 5,
        "c_steps": 3,
    },
    "evaluate": {"bootstrap": 50},
    "report": {"gallery": 4},
}


@dataclass(frozen=True)
class Project:
    """A project folder and how to run commands in it."""

    root: Path

    def run(self, *command: str, code: int | None = 0, **environment: str) -> str:
        """Run `pipeline ...`, `dvc ...`, `python ...` or `bash ...`; return stdout + stderr; check
        the code. `pipeline` is forked, see `warm`, unless it needs variables of its own."""
        if command[0] == "pipeline" and not environment:
            variables = self.environment()
            ended, out = warm.run(
                command[1:], root=self.root, code=self.root, environment=variables
            )
        else:
            done = self.start(*command, **environment)
            out = done.communicate(timeout=900)[0]
            ended = done.returncode
        if code is not None:
            assert ended == code, f"{command} -> {ended}\n{out}"
        return out

    def on_terminal(self, *command: str, columns: int = 120) -> str:
        """Run a command with a terminal for its output; return all that it drew."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        done = self.start(*command, output=theirs, TERM="xterm-256color")
        os.close(theirs)
        drawn = b""
        with os.fdopen(ours, "rb", buffering=0) as screen, contextlib.suppress(OSError):
            while part := screen.read(65536):  # an OSError: the other end has closed
                drawn += part
        assert done.wait(timeout=900) == 0, drawn.decode()
        return drawn.decode()

    def start(
        self, *command: str, output: int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command in the project with its own code first on the path."""
        program, *arguments = command
        if program == "pipeline":
            arguments = ["-c", "from pipeline.cli import main; main()", *arguments]
        elif program == "dvc":
            arguments = ["-m", "dvc", *arguments]
        return subprocess.Popen(
            [program if program == "bash" else sys.executable, *arguments],
            cwd=self.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment() | environment,
        )

    @staticmethod
    def environment() -> dict[str, str]:
        """What all commands are given."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "120",
        }

    def params(self, **changes: object) -> None:
        """Change dotted keys of params.yaml (`train__lambda=0.1`)."""
        path = self.root / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            *parents, leaf = dotted.split("__")
            table = raw
            for key in parents:
                table = table[key]
            table[leaf] = value
        path.write_text(yaml.safe_dump(raw, sort_keys=False))

    def copy(self, root: Path) -> Project:
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


def empty_project(root: Path, repo: Path) -> Project:
    """Copy the checkout's own files (not its data or caches) and make a git and DVC repository."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repo,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in files:
        wanted = name.startswith(("pipeline/", "stages/", ".dvc")) or "/" not in name
        if name and (wanted or name == "data_manifests/prompts.yaml") and (repo / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo / name, root / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    for key, value in SMALL.items():
        raw[key] = raw[key] | value if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return Project(root)


@pytest.fixture(scope="session")
def sample_project(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Project:
    """Phantoms drawn, nothing computed yet."""
    project = empty_project(tmp_path_factory.mktemp("sample") / "project", repo)
    project.run("pipeline", "data", "sample", "--images", "40")
    return project


@pytest.fixture(scope="session")
def built_project(sample_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The sample project after `dvc repro`."""
    project = sample_project.copy(tmp_path_factory.mktemp("built") / "project")
    project.run("dvc", "repro")
    return project


@pytest.fixture
def project(built_project: Project, tmp_path: Path) -> Project:
    """A copy of the built project that a test may change."""
    return built_project.copy(tmp_path / "project")


@pytest.fixture
def fresh(sample_project: Project, tmp_path: Path) -> Project:
    """A copy of the sample project: images and manifests, no stores."""
    return sample_project.copy(tmp_path / "project")
