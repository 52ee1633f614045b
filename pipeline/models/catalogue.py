"""Published models by name: their files, where each goes, and whether they are there and whole.

What is known of them is in catalogue.yaml. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError, ModelError
from pipeline.io import atomic_write_text, sha256_file


@dataclass(frozen=True)
class ModelFile:
    """A file of a published model; None stands for what is not known.

    Args:
        place: its path below the project folder.
        hub, revision: the repository on the hub that has it, and the commit there; or the address
            of the file, or of an archive with it, elsewhere.
        sha256: hexadecimal.
        size: in bytes.
    """

    place: str
    hub: str
    revision: str | None
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """Its name in the repository."""
        return Path(self.place).name

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        if self.elsewhere:
            return self.hub
        return f"https://huggingface.co/{self.hub}/resolve/{self.revision or 'main'}/{self.name}"

    @property
    def elsewhere(self) -> bool:
        """Whether it is not on the hub."""
        return self.hub.startswith("https://")

    def by_hand(self, root: Path) -> str:
        """Return how to get it with a browser."""
        inside = "" if self.url.endswith(f"/{self.name}") else f", take {self.name} out of it"
        return f"download {self.url}{inside} and put it at {root / self.place}"

    def wanted(self, root: Path) -> tuple[str | None, str]:
        """Return the hash that the file must have, and who says so: "pinned" (the catalogue),
        "recorded" (the file beside it) or "not pinned" (nobody: None)."""
        beside = root / f"{self.place}.sha256"
        if self.sha256:
            return self.sha256, "pinned"
        if beside.is_file():
            return beside.read_text("utf-8")[:64], "recorded"
        return None, "not pinned"

    def state(self, root: Path) -> str:
        """Return "missing", "here", or by its size "half fetched" or "too long"."""
        path = root / self.place
        if not path.is_file():
            return "missing"
        size = path.stat().st_size
        if self.size in (None, size):
            return "here"
        return "half fetched" if size < self.size else "too long"

    def check(self, root: Path, remedy: str, path: Path | None = None) -> str:
        """Read the file (or the one at `path`, which shall take its place) and return in words
        whether its hash is pinned; if it is not, record it beside the file.

        Raises ModelError, with the remedy, if it is missing, not whole, or its hash differs.
        """
        state = "here" if path else self.state(root)
        first, path = "" if path else "delete it, then ", path or root / self.place
        if state == "missing":
            raise ModelError("is missing", path=path, remedy=remedy)
        if state != "here":
            message = f"is {state}: {path.stat().st_size:,} of {self.size:,} bytes"
            raise ModelError(message, path=path, remedy=first + remedy)
        digest, (wanted, who) = sha256_file(path), self.wanted(root)
        if wanted and digest != wanted:
            message = f"has SHA-256 {digest}, but {wanted} is {who}"
            raise ModelError(message, path=path, remedy=first + remedy)
        if wanted is None:  # as `sha256sum -c` reads it
            atomic_write_text(root / f"{self.place}.sha256", f"{digest}  {self.name}\n")
        return f"ok, its hash is {who}{'' if wanted else ', recorded now'}"


@dataclass(frozen=True)
class PublishedModel:
    """A model of the catalogue.

    Args:
        name: in the catalogue.
        kind: "sam2" or "clip", its place in a profile.
        licence: of the weights.
        use: the `ModelSpec` that a profile of params.yaml has with these files.
        files: what it consists of, the weights first.
    """

    name: str
    kind: str
    licence: str
    use: dict[str, str]
    files: tuple[ModelFile, ...]

    @property
    def line(self) -> str:
        """The line of a profile."""
        how = {"default_flow_style": True, "width": 999, "sort_keys": False}
        return f"{self.kind}: {yaml.safe_dump(self.use, **how).strip()}"

    def state(self, root: Path) -> str:
        """Return "here", "missing", "incomplete", or what is wrong with a file by its size."""
        found = {file.state(root) for file in self.files}
        wrong = sorted(found - {"here", "missing"})
        return wrong[0] if wrong else "incomplete" if len(found) > 1 else found.pop()


@cache
def catalogue() -> dict[str, PublishedModel]:
    """Return the published models by name."""
    found = {}
    text = (files(__package__) / "catalogue.yaml").read_text("utf-8")
    for name, of in yaml.safe_load(text).items():
        parts = []
        for place, known in of["files"].items():
            sha256, size, hub = (known + [None] * 3)[:3]
            hub = hub or next(iter(of["hub"]))
            parts.append(ModelFile(place, hub, of["hub"][hub], sha256, size))
        use: dict[str, Any] = of.get("use", {"name": name, "checkpoint": parts[0].place})
        licence = of.get("licence", "Apache-2.0")
        found[name] = PublishedModel(name, of.get("kind", "sam2"), licence, use, tuple(parts))
    return found


def published(name: str) -> PublishedModel:
    """Return a model of the catalogue; ConfigError for another name."""
    if name not in catalogue():
        remedy = f"choose from {', '.join(catalogue())}; others: docs/official_weights.md"
        raise ConfigError(f"no published model is called {name!r}", remedy=remedy)
    return catalogue()[name]


def human(size: float | None) -> str:
    """Return bytes as text with three digits, "?" for None."""
    if size is None:
        return "?"
    power = max(0, (len(str(int(size))) - 1) // 3)
    return f"{size / 1000**power:.3g} {['B', 'kB', 'MB', 'GB', 'TB', 'PB'][power]}"
