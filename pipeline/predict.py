"""New images through the whole chain: x -> m = SAM2(x) -> I = E_v(view) -> class probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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
from pipeline.engine.progress import Progress
from pipeline.errors import ImageError, StoreError, reason_of
from pipeline.images import probe, read_image
from pipeline.io import atomic_write, sha256_file
from pipeline.learners import Samples
from pipeline.learners.data import encoded_with_other_masks
from pipeline.learners.runs import Fitted, load_fitted
from pipeline.models import ClipModel, Sam2ImagePredictor, load_clip
from pipeline.paths import Paths
from pipeline.report.overlay import draw_outlines
from pipeline.segment import segment_images
from pipeline.segment.segment import make_mapper
from pipeline.stores import MaskRow, open_features, open_masks
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

    def __str__(self) -> str:
        """One line, classes by falling probability."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        shares = "  ".join(f"{name} {share:.3f}" for name, share in ranked)
        return f"{self.image}: {shares}  (mask {self.mask_status}, {self.overlay})"


@dataclass
class Predictions:
    """All outcomes of one call; `failed` maps an image to the reason it could not be read."""

    learner: str
    view: str
    seeds: list[int]
    images: list[ImagePrediction] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all of it as a JSON text; each image's `label` is the likeliest class."""
        rows = [vars(row) | {"label": row.label} for row in self.images]
        return json.dumps(vars(self) | {"images": rows}, indent=2, ensure_ascii=False)

    def heading(self) -> str:
        """Return the fitted learners in one line."""
        return f"learner {self.learner}, view {self.view}, mean of {len(self.seeds)} seeds"

    def failures(self) -> list[str]:
        """Return one line for each image that failed."""
        return [f"{image}: failed, {reason}" for image, reason in self.failed.items()]


def predict_images(
    dataset: str,
    images: list[Path],
    params: Params,
    paths: Paths,
    *,
    learner: str = "medfocus",
    view: str = "masked",
    out: Path = Path("predictions"),
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    say: Callable[[object], None] = lambda line: None,
) -> Predictions:
    """Classify new images with a learner that was trained on a dataset.

    The fits of protocol "official" at the largest fraction are used, one per seed, and their
    probabilities averaged. Masks and features are made as params.yaml says, which must be as the
    dataset's feature store was made. Each frame of a file of several is an image of its own.

    Args:
        images: files of any supported format.
        learner, view: which trained learner, on which view.
        out: folder for the overlays (image with the mask's outline), one PNG per image.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images in one forward pass; predictions do not depend on it.
        workers: threads that read images ahead of the models.
        say: called with the heading, then with each `ImagePrediction` as soon as it is made.

    Raises:
        PipelineError: nothing was trained for this learner and view.
        StoreError: the parameters are not those the features were made with, or masks, features
            and fits do not belong together.
    """
    chain = _load_chain(dataset, params, paths, learner, view, device)
    outcome = Predictions(learner, view, chain.fitted.seeds)
    batch_size = batch_size or BATCH_SIZE
    items = list(_frames(images, outcome.failed))
    loaded = load_in_order(
        items,
        lambda item: read_image(item.path, item.frame),
        workers=workers,
        ahead=2 * batch_size,
    )
    say(outcome.heading())
    with Progress(f"predict {dataset}", len(items)) as progress:
        while batch := list(islice(loaded, batch_size)):
            ready = [(item, image) for item, image, error in batch if error is None]
            for item, _, error in batch:
                if isinstance(error, (ImageError, OSError)):
                    outcome.failed[item.image_id] = _reason(error)
                elif error is not None:
                    raise error
            for (item, image), (mask, shares) in zip(ready, chain.classify(ready), strict=True):
                overlay = out / f"{len(outcome.images):03d}_{item.path.stem}.png"
                with atomic_write(overlay) as partial:
                    draw_outlines(image, mask.mask, size=max(image.shape)).save(partial)
                row = ImagePrediction(item.image_id, shares, mask.status, str(overlay))
                outcome.images.append(row)
                say(row)
            progress.add(len(ready), len(batch) - len(ready))
    return outcome


@dataclass(frozen=True)
class _Chain:
    """The models that an image goes through, and the learners fitted with each seed."""

    params: Params
    view: str
    sam: Sam2ImagePredictor | None
    clip: ClipModel
    fitted: Fitted
    text: np.ndarray

    def classify(
        self, ready: Sequence[tuple[WorkItem, np.ndarray]]
    ) -> list[tuple[MaskRow, dict[str, float]]]:
        """Return the mask and the mean probability of each class for uint8 (h, w, 3) images."""
        if not ready:
            return []
        images = [image for _, image in ready]
        masks = segment_images(images, self.params.segment, self.sam)
        embedded = encode_images(
            images,
            [mask.mask for mask in masks],
            self.params.encode,
            self.clip,
            views=[self.view],
            statuses=[mask.status for mask in masks],
            seeds=[item.key for item, _ in ready],
        )
        found = []
        for mask, embedding in zip(masks, embedded, strict=True):
            classes = tuple(self.fitted.classes)
            none = np.zeros(0, np.int64)
            sample = Samples(self.view, {self.view: embedding}, none, self.text, classes)
            every = [learner.predict_proba(sample) for learner in self.fitted.learners]
            proba = np.mean(every, axis=0)[0]
            found.append((mask, dict(zip(self.fitted.classes, map(float, proba), strict=True))))
        return found


def _load_chain(
    dataset: str, params: Params, paths: Paths, learner: str, view: str, device: str
) -> _Chain:
    """Load what `predict_images` needs, once all that it is made of is of each other."""
    fitted = load_fitted(paths, dataset, learner, view=view)
    features, masks = open_features(paths.features(dataset)), open_masks(paths.masks(dataset))
    _check_same(paths.run(dataset, learner), fitted.features, features.identity)
    if other := encoded_with_other_masks(features, masks):
        raise StoreError(
            f"{len(other)} images were encoded with other masks than segment has made since",
            path=paths.features(dataset),
            remedy=f"run pipeline encode, then train, with --dataset {dataset}",
        )
    masker = make_mapper(params, device)
    device = choose_device(device)
    precision = choose_precision(params.encode.precision, device)
    clip = load_clip(params.models.clip, device=device, precision=precision)
    _check_same(paths.masks(dataset), masks.identity, masker.identity)
    encoder = EncodeMapper(params.encode, clip, {})
    _check_same(paths.features(dataset), features.identity, encoder.identity)
    sam = masker.sam and masker.sam.predictor
    return _Chain(params, view, sam, clip, fitted, features.class_features(fitted.classes))


def _frames(images: Sequence[Path], failed: dict[str, str]) -> Iterator[WorkItem]:
    """One item a frame; a file that cannot be looked into goes to `failed` with the reason.

    The key is the seed of the random view: the same as the stages give an image of these bytes.
    """
    for path in images:
        try:
            numbers = [one.frame for one in probe(path)]
            digest = sha256_file(path)  # of the file, whatever its number of frames
        except (ImageError, OSError) as error:
            failed[str(path)] = _reason(error)
            continue
        for number in numbers:
            name = str(path) if len(numbers) == 1 else f"{path}#{number}"
            yield WorkItem(name, f"{digest}#{number}", path, number)


def _reason(error: ImageError | OSError) -> str:
    """Why an image cannot be read, without its name: that stands before it."""
    if isinstance(error, ImageError):
        return error.with_remedy
    return error.strerror or reason_of(error)


def _check_same(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse models or parameters other than those that the learners were fitted on.

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
