"""How much faster an epoch of CoOp is from stored features than if it encoded its images.

    python -m benchmarks.coop_speed --images 4000

The profile's CLIP on one thread; images and labels are noise. Encoding is timed on a sample and
scaled up. Stated target: at least 20 times as fast.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from pipeline.config import load_params
from pipeline.learners import Samples
from pipeline.learners.coop import CoOp, CoOpParams
from pipeline.learners.prompts import ClassPrompts
from pipeline.models import load_clip
from tests.learners.projects import REPO

WORDS = ("a glioma", "a meningioma", "a healthy brain", "a pituitary tumor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec, rng = load_params(REPO / "params.yaml").models.clip, np.random.default_rng(0)
    clip = load_clip(spec)
    size = clip.image_size
    batches = torch.rand(args.sample, 3, size, size).split(16)
    clip.encode_image(batches[0])
    clock = time.process_time()
    for batch in batches:
        clip.encode_image(batch)
    encode = (time.process_time() - clock) * args.images / args.sample

    prompts = ClassPrompts(WORDS, ("{}.",), spec, clip.fingerprint)
    X = rng.standard_normal((args.images, clip.embed_dim)).astype(np.float32)
    y, text = rng.integers(0, len(WORDS), args.images), clip.encode_text(list(WORDS)).numpy()
    train = Samples("whole", {"whole": X}, y, text, prompts=prompts)
    prompts.tower()
    clock = time.process_time()
    CoOp(CoOpParams(epochs=args.epochs)).fit(train, train.take(y[:0], labelled=True))
    epoch = (time.process_time() - clock) / args.epochs
    print(f"one epoch of {args.images} images: {epoch:.2f} CPU seconds from stored features,")
    print(f"{encode:.1f} to encode them: {encode / epoch:.0f} times as many")


if __name__ == "__main__":
    main()
