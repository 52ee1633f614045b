"""Fits that are done but not yet in the outputs: a killed run loses half a minute of them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from pipeline.io import atomic_write
from pipeline.training.cell import Fit

_ARRAYS = ("proba", "tensors")


class Journal:
    """Files `partial-<n>.safetensors` beside the heads, each with the fits of about half a minute.

    Args:
        folder: cache/<dataset>/heads.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.waiting: list[Fit] = []

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("partial-*.safetensors"))

    def append(self, fits: list[Fit]) -> None:
        """Keep fits for the next `flush`."""
        self.waiting += fits

    def flush(self) -> None:
        """Write what waits as one more file."""
        from safetensors.numpy import save

        if not self.waiting:
            return
        arrays: dict[str, np.ndarray] = {}
        facts = []
        names = [f.name for f in fields(Fit) if f.name not in _ARRAYS]
        for number, fit in enumerate(self.waiting):
            row = {name: getattr(fit, name) for name in names}
            facts.append({**row, "tensors": sorted(fit.tensors), "ok": fit.proba is not None})
            if fit.proba is not None:
                arrays[f"{number}/proba"] = fit.proba
            for name, array in fit.tensors.items():
                arrays[f"{number}/tensor/{name}"] = np.ascontiguousarray(array)
        # After the last one, not by their count: a kill may have come while they were removed.
        files = self._files()
        number = int(files[-1].stem.removeprefix("partial-")) + 1 if files else 0
        with atomic_write(self.folder / f"partial-{number:04d}.safetensors") as path:
            path.write_bytes(save(arrays, metadata={"fits": json.dumps(facts)}))
        self.waiting = []

    def read(self) -> list[Fit]:
        """Return the fits of all files; one that cannot be read is ignored and computed again."""
        from safetensors import SafetensorError, safe_open

        found: list[Fit] = []
        for path in self._files():
            try:
                with safe_open(path, framework="numpy") as file:
                    for number, row in enumerate(json.loads(file.metadata()["fits"])):
                        tensors, ok = row.pop("tensors"), row.pop("ok")
                        fit = Fit(**row)
                        fit.proba = file.get_tensor(f"{number}/proba") if ok else None
                        fit.tensors = {
                            name: file.get_tensor(f"{number}/tensor/{name}") for name in tensors
                        }
                        found.append(fit)
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                continue
        return found

    def clear(self) -> None:
        """Remove the files, once the outputs hold their fits."""
        for path in self._files():
            path.unlink(missing_ok=True)
