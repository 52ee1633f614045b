"""How fast segment and encode are, and how much of that is the model's own forward pass.

    python benchmarks/stage_speed.py --images 200 --batch-size 16

Runs both stages with the profile's models on images of its own making, then the bare models on
the same frames at the same batch size, already in memory, in turn. `overhead` is stage time over
forward time, minus one (the median over the turns), loading and writing included; what loading
hides behind the model costs nothing. Run it on an idle machine.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.engine.process import keep_freed_memory

keep_freed_memory()  # first, as the command does

import numpy as np
import torch

from pipeline.encode.encode import encode_dataset
from pipeline.encode.mapper import EncodeMapper
from pipeline.engine.options import RunOptions
from pipeline.images import read_image
from pipeline.manifest import read_manifest, row_file
from pipeline.models import load_clip, load_sam2
from pipeline.segment.segment import SegmentMapper, segment_dataset
from pipeline.store import open_masks
from tests.project import DATASET, Project


def make_images(project: Project, count: int, side: int) -> None:
    """Smooth noise with a bright ellipse, `side` pixels wide and three quarters as high."""
    rng = np.random.default_rng(0)
    height, width = side * 3 // 4, side
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
        inside = ((y - cy) / (height / 5)) ** 2 + ((x - cx) / (width / 6)) ** 2 < 1
        coarse = rng.integers(0, 90, (height // 8 + 1, width // 8 + 1, 1))
        noise = np.kron(coarse, np.ones((8, 8, 1), int))[:height, :width]
        image = (noise + 130 * inside[..., None]).repeat(3, axis=2).astype(np.uint8)
        project.rows.append(project.make_row(f"{i:05d}.png", image, label=("cat", "dog")[i % 2]))
    project.write()


def forward_seconds(call, batches: list) -> float:
    """Seconds that `call` takes over all batches, after one to warm up."""
    call(batches[0])
    start = time.perf_counter()
    for batch in batches:
        call(batch)
    return time.perf_counter() - start


def in_turn(stage, forward, repeats: int) -> list[tuple[dict[str, float], float]]:
    """Run the stage and the bare model in turn, since a shared machine's speed drifts.

    Returns:
        Of each turn the seconds of the stage by part, and those of the model.
    """
    return [(stage().seconds, forward()) for _ in range(repeats)]


def chunks(values: list, size: int) -> list[list]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def report(turns: list[tuple[dict[str, float], float]], images: int, **extra) -> dict:
    """Return the medians over the turns, and the overhead of each."""
    overheads = sorted(stage["total"] / forward - 1 for stage, forward in turns)
    parts = {part: median(stage[part] for stage, _ in turns) for part in turns[0][0]}
    return {
        "images": images,
        "ms_per_image": round(1e3 * parts["total"] / images, 2),
        "forward_ms_per_image": round(1e3 * median(f for _, f in turns) / images, 2),
        "overhead": round(median(overheads), 3),
        "overheads": [round(o, 3) for o in overheads],
        "seconds": {part: round(seconds, 2) for part, seconds in parts.items()},
        **extra,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--prompt", default="salient")
    parser.add_argument("--views", default="whole,masked,crop,binary,random")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        make_images(project, args.images, args.side)
        params = project.params(segment__prompt=args.prompt, encode__views=args.views.split(","))
        size = args.batch_size
        options = RunOptions(batch_size=size, workers=args.workers, force=True)
        sam2, clip = load_sam2(params.models.sam2), load_clip(params.models.clip)

        manifest = read_manifest(project.paths.manifest(DATASET))
        data = project.paths.data(DATASET)
        images = [read_image(row_file(row, data)) for _, row in manifest.iterrows()]

        def segment():
            return segment_dataset(DATASET, params, project.paths, options, predictor=sam2)

        segment()  # once to warm up, and for the masks
        strategy = SegmentMapper(params.segment, sam2).strategy
        prepared = chunks([strategy.prepare(image, {}) for image in images], size)
        turns = in_turn(segment, lambda: forward_seconds(strategy.segment, prepared), args.repeats)
        results = {"segment": report(turns, args.images, prompt=args.prompt)}

        def encode():
            return encode_dataset(DATASET, params, project.paths, options, clip=clip)

        masks = open_masks(project.paths.masks(DATASET))
        encoder = EncodeMapper(params.encode, clip, masks)
        made = [
            encoder.prepare(i, masks[n]) for i, n in zip(images, manifest["image_id"], strict=True)
        ]
        views = torch.cat([one.pixels for one in made])
        batches = list(views.split(size))
        turns = in_turn(encode, lambda: forward_seconds(clip.encode_image, batches), args.repeats)
        results["encode"] = report(turns, args.images, views=len(views))
    print(json.dumps({"threads": torch.get_num_threads(), **results}, indent=2))


if __name__ == "__main__":
    main()
