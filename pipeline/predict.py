"""New images through the whole chain: x -> m = SAM2(x) -> I = E_v(view) -> class probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params
from pipeline.devices import choose_device, choose_precision
from pipeline.encode import EncodeMapper, encode_images
from pipeline.engine import WorkItem
from pipeline.engine.loader import load_in_order
from pipeline.errors import ImageError, PipelineError, StoreError
from pipeline.files import atomic_write, sha256_file
from pipeline.heads.saved import learned_from, load_head, load_heads
from pipeline.images import probe, read_image
from pipeline.models import load_clip
from pipeline.paths import Paths
from pipeline.report.overlay import draw_outlines
from pipeline.segment import segment_images
from pipeline.segment.segment import make_mapper
from pipeline.stores import open_features, open_masks
from pipeline.stores.identity import canonical, identity_diff

BATCH_SIZE = 8


@dataclass(frozen=True)
class ImagePrediction:
    """One image's outcome. `probabilities` maps class name to probability; they sum to 1."""

    image: str
    probabilities: dict[str, float]
    mask_status: str
    overlay: str

    @property
    def label(self) -> str:
        """The likeliest class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass
class Predictions:
    """All outcomes of one call; `failed` maps an image to the reason it could not be read."""

    head: str
    view: str
    seeds: list[int]
    images: list[ImagePrediction] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all of it as a JSON text; each image's `label` is the likeliest class."""
        rows = [vars(row) | {"label": row.label} for row in self.images]
        return json.dumps(vars(self) | {"images": rows}, indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """Return one line for the head and one for each image, classes by falling probability."""
        lines = [f"head {self.head}, view {self.view}, mean of {len(self.seeds)} seeds"]
        for row in self.images:
            ranked = sorted(row.probabilities.items(), key=lambda item: -item[1])
            shares = "  ".join(f"{name} {share:.3f}" for name, share in ranked)
            lines.append(f"{row.image}: {shares}  (mask {row.mask_status}, {row.overlay})")
        lines += [f"{image}: failed, {reason}" for image, reason in self.failed.items()]
        return "\n".join(lines)


def predict_images(
    dataset: str,
    images: list[Path],
    params: Params,
    paths: Paths,
    *,
    head: str = "medfocus",
    view: str = "masked",
    out: Path = Path("predictions"),
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
) -> Predictions:
    """Classify new images with the heads trained on a dataset.

    The heads of protocol "official" at the largest fraction are used, one per seed, and their
    probabilities averaged. Masks and features are made as params.yaml says, which must be as the
    dataset's feature store was made. Each frame of a file of several is an image of its own.

    Args:
        images: files of any supported format.
        head, view: which trained head, on which view.
        out: folder for the overlays (image with the mask's outline), one PNG per image.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images in one forward pass; predictions do not depend on it.
        workers: threads that read images ahead of the models.

    Raises:
        PipelineError: nothing was trained for this head and view.
        StoreError: the parameters are not those the features were made with, or masks, features
            and heads are not of each other.
    """
    if not paths.heads(dataset).is_dir():
        raise PipelineError(
            "no trained heads",
            path=paths.heads(dataset),
            remedy=f"run: pipeline train --dataset {dataset}",
        )
    _, cells = load_heads(paths.heads(dataset), head)
    trained = [key.split("/") for key in cells if key.startswith(f"official/{view}/")]
    fraction = max((float(key[2]) for key in trained), default=1.0)
    seeds = sorted(int(key[3]) for key in trained if float(key[2]) == fraction) or [0]
    heads = [
        load_head(
            paths.heads(dataset),
            head,
            protocol="official",
            view=view,
            fraction=fraction,
            seed=seed,
        )
        for seed in seeds
    ]
    features, masks = open_features(paths.features(dataset)), open_masks(paths.masks(dataset))
    _check_same(paths.heads(dataset), learned_from(paths.heads(dataset), head), features.identity)
    if other := features.of_other_masks(masks.table()):
        raise StoreError(
            f"{len(other)} images were encoded with other masks than segment has made since",
            path=paths.features(dataset),
            remedy=f"run pipeline encode, then train, with --dataset {dataset}",
        )
    masker = make_mapper(params, device)
    device = choose_device(device)
    precision = choose_precision(params.encode.precision, device)
    clip = load_clip(params.models.clip, device=device, precision=precision)
    encoder = EncodeMapper(params.encode, clip, {})
    _check_same(paths.masks(dataset), masks.identity, masker.identity)
    _check_same(paths.features(dataset), features.identity, encoder.identity)
    outcome = Predictions(head, view, seeds)
    batch_size = batch_size or BATCH_SIZE
    loaded = load_in_order(
        _frames(images, outcome.failed),
        lambda item: read_image(item.path, item.frame),
        workers=workers,
        ahead=2 * batch_size,
    )
    while batch := list(islice(loaded, batch_size)):
        ready = []
        for item, image, error in batch:
            if error is None:
                ready.append((item, image))
            elif isinstance(error, (ImageError, OSError)):
                outcome.failed[item.image_id] = str(error)
            else:
                raise error
        if not ready:
            continue
        shown = [image for _, image in ready]
        made = segment_images(shown, params.segment, masker.sam and masker.sam.predictor)
        embedded = encode_images(
            shown,
            [mask.mask for mask in made],
            params.encode,
            clip,
            views=[view],
            statuses=[mask.status for mask in made],
            seeds=[item.key for item, _ in ready],
        )
        for (item, image), mask, embedding in zip(ready, made, embedded, strict=True):
            proba = np.mean([fitted.predict_proba(embedding) for fitted, _ in heads], axis=0)[0]
            overlay = out / f"{len(outcome.images):03d}_{item.path.stem}.png"
            with atomic_write(overlay) as partial:
                draw_outlines(image, mask.mask, size=max(image.shape)).save(partial)
            shares = {name: float(p) for name, p in zip(heads[0][1], proba, strict=True)}
            outcome.images.append(ImagePrediction(item.image_id, shares, mask.status, str(overlay)))
    return outcome


def _frames(images: Sequence[Path], failed: dict[str, str]) -> Iterator[WorkItem]:
    """One item a frame; a file that cannot be looked into goes to `failed` with the reason.

    The key is the seed of the random view: the same as the stages give an image of these bytes.
    """
    for path in images:
        try:
            numbers = [one.frame for one in probe(path)]
            digest = sha256_file(path)  # of the file, whatever its number of frames
        except (ImageError, OSError) as error:
            failed[str(path)] = str(error)
            continue
        for number in numbers:
            name = str(path) if len(numbers) == 1 else f"{path}#{number}"
            yield WorkItem(name, f"{digest}#{number}", path, number)


def _check_same(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse models or parameters other than those that the heads learned from.

    A store's identity may say more than the mapper's (the length of a feature): that is left out.
    """
    now = canonical(now)
    differences = identity_diff({key: stored.get(key) for key in now}, now)
    if differences:
        raise StoreError(
            "made with other choices: " + "; ".join(differences),
            path=path,
            remedy="set them back, or run the stages again",
        )
