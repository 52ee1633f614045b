"""How much longer a stage takes than its model alone: loading and writing should hide behind it.

    python benchmarks/overlap.py --images 200 --load 0.02 --model 0.02

Loading and model are sleeps of known length here, so that the figure is the engine's own and
does not depend on a processor. With several loaders, each image may take that many times the
model's time to load and still be ready.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cheap_stage import CheapMapper, make_items, run_cheap


class TimedMapper(CheapMapper):
    """Knows how long its model took."""

    forward = 0.0

    def map(self, items, loaded):
        begin = time.monotonic()
        rows = super().map(items, loaded)
        self.forward += time.monotonic() - begin
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--load", type=float, default=0.02, help="Seconds to load an image.")
    parser.add_argument("--model", type=float, default=0.02, help="Seconds of the model an image.")
    a = parser.parse_args()
    for kind in ("masks", "features"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            items = make_items(folder, a.images, a.size)
            mapper = TimedMapper(kind, seconds=a.model, load_seconds=a.load)
            record = run_cheap(
                kind,
                folder,
                items,
                mapper=mapper,
                batch_size=a.batch_size,
                workers=a.workers,
            )
        total = record.seconds["total"]
        parts = {part: round(value, 2) for part, value in record.seconds.items()}
        over = round(total / mapper.forward - 1, 3)
        print(json.dumps({"kind": kind, "model": round(mapper.forward, 2), "over": over, **parts}))


if __name__ == "__main__":
    main()
