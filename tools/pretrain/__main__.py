"""Make the embedded models and their cards. Not a DVC stage: their weights are tracked in git.

python -m tools.pretrain --data DATA
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from tools.pretrain import clip_projection, data, loop, report, run

MODELS = Path("pipeline/models")
PARTS = ("clip", "sam2", "judge-clip", "judge-sam2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="has segmentation/ and data/")
    parser.add_argument("--out", type=Path, default=MODELS / "weights", help="weights")
    parser.add_argument("--cards", type=Path, default=MODELS / "cards")
    parser.add_argument("--prompts", type=Path, default=Path("data_manifests/prompts.yaml"))
    parser.add_argument("--steps", type=int, default=loop.TrainConfig.steps)
    parser.add_argument("--seed", type=int, default=loop.TrainConfig.seed)
    parser.add_argument("--images", type=int, help="judge at most so many of each study set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    sam2, clip = args.out / "sam2-micro.safetensors", args.out / "clip-micro.safetensors"
    if "clip" in args.parts:
        clip_projection.make_clip(clip)
        report.report_clip(clip, args.cards, None, args.prompts)
    if "judge-clip" in args.parts:
        report.report_clip(clip, args.cards, args.data / "data", args.prompts)
    if "sam2" in args.parts or "judge-sam2" in args.parts:
        items = data.load_sets(args.data)
        logging.info("%d images, %d held out", len(items), sum(i.held_out for i in items))
        if "sam2" in args.parts:
            config = loop.TrainConfig(steps=args.steps, seed=args.seed)
            run.make_sam2(items + data.load_phantoms(args.seed), config, sam2)
        if "judge-sam2" in args.parts:
            default = report.report_sam2(items, args.data, sam2, args.cards, args.images)
            logging.info("default prompt, chosen on held-out images: %s", default)


if __name__ == "__main__":
    main()
