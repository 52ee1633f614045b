"""Make the embedded models. Not part of the DVC pipeline: their weights are tracked in git.

python -m stages.pretrain --data ../shared
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from pipeline.pretrain import data, loop, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has segmentation/ and data/")
    parser.add_argument("--out", type=Path, default=Path("pipeline/models/weights"))
    parser.add_argument("--steps", type=int, default=loop.TrainConfig.steps)
    parser.add_argument("--seed", type=int, default=loop.TrainConfig.seed)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    config = loop.TrainConfig(steps=args.steps, seed=args.seed)
    items = data.load_sets(args.data) + data.load_phantoms(args.seed)
    logging.info("%d images and phantoms, %d held out", len(items), sum(i.held_out for i in items))
    run.make_sam2(items, config, args.out / "sam2-micro.safetensors")


if __name__ == "__main__":
    main()
